"""Latency as a smooth function of how probable each choice is."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Self, final

import numpy as np
import torch
from optuna.distributions import CategoricalDistribution

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from optuna.distributions import BaseDistribution
    from torch import Tensor

    from offramp_search.spaces import Architecture

__all__ = ["AdditiveLatency"]

_RIDGE = 1e-3


@final
class AdditiveLatency:
    """A latency for each choice, which add up; fitted to what the latency table says.

    Under independent choices its expectation is exact, and differentiable in the probabilities.

    Args:
        constant_ms: What every architecture takes.
        choice_ms: For every decision, what each choice adds.
        limit_ms: The budget.
        explained: Share of the variance over the architectures it was fitted to.
    """

    def __init__(
        self,
        constant_ms: float,
        choice_ms: Mapping[str, NDArray[np.float64]],
        *,
        limit_ms: float,
        explained: float,
    ) -> None:
        self.constant_ms, self.limit_ms, self.explained = constant_ms, limit_ms, explained
        self.choice_ms = dict(choice_ms)

    @classmethod
    def fit(
        cls,
        decisions: Mapping[str, BaseDistribution],
        architectures: Sequence[Architecture],
        ms: Sequence[float],
        *,
        limit_ms: float,
    ) -> Self:
        """Ridge regression of latencies on choices.

        Args:
            decisions: Categorical ones.
            architectures: Drawn at random.
            ms: What each takes.
            limit_ms: The budget.
        """
        names = {
            name: kind.choices
            for name, kind in decisions.items()
            if isinstance(kind, CategoricalDistribution)
        }
        rows = np.array(
            [
                [float(one[name] == choice) for name in names for choice in names[name]]
                for one in architectures
            ]
        )
        target = np.asarray(ms)
        centred = rows - rows.mean(0)
        gram = centred.T @ centred + _RIDGE * len(rows) * np.eye(rows.shape[1])
        slope = np.linalg.solve(gram, centred.T @ (target - target.mean()))
        constant = float(target.mean() - rows.mean(0) @ slope)
        spread = float(((target - target.mean()) ** 2).sum())
        missed = float(((rows @ slope + constant - target) ** 2).sum())
        ends = np.cumsum([len(part) for part in names.values()])[:-1]
        return cls(
            constant,
            dict(zip(names, np.split(slope, ends), strict=True)),
            limit_ms=limit_ms,
            explained=1 - missed / spread if spread else 1.0,
        )

    @property
    def sha256(self) -> str:
        """Fingerprint of all figures."""
        digest = hashlib.sha256(f"{self.constant_ms} {self.limit_ms}".encode())
        for name, part in self.choice_ms.items():
            digest.update(name.encode() + part.astype("<f8").tobytes())
        return digest.hexdigest()

    def share(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """The expected latency as a share of the budget."""
        parts = [
            (probabilities[name] * torch.tensor(ms, dtype=torch.float32)).sum()
            for name, ms in self.choice_ms.items()
        ]
        return (torch.stack(parts).sum() + self.constant_ms) / self.limit_ms
