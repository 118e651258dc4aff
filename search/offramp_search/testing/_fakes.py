"""A search space, an evaluator and a latency table that cost nothing."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn

from offramp.latency import Latency
from offramp_export.network import MultiStageNetwork
from offramp_search.devices import record_table
from offramp_search.evaluators import Evaluator, Outputs
from offramp_search.spaces import Block, Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from optuna.distributions import BaseDistribution

    from offramp_search.spaces import Architecture

__all__ = ["FakeEvaluator", "FakeSpace", "write_fake_table"]

_SHARES = ("1-3", "2-2", "3-1", "0-4")
_CLASSES = 4
_CALL_MS = 0.01


@final
@dataclass(frozen=True)
class _FakeBlock(Block):
    width: int

    @property
    def key(self) -> str:
        return f"linear {self.width}"

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((1, 16),)

    def module(self) -> nn.Module:
        return nn.Linear(16, self.width).eval()


@final
class _FakeStage(nn.Module):
    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.last = last
        self.linear = nn.Linear(3, _CLASSES)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits = self.linear(image.mean((1, 2)) / 255)
        return (logits,) if self.last else (logits, image)


@final
class FakeSpace(Space):
    """Two stages; each unit splits four channels between them, and not all may go to the second.

    Args:
        units: How many decisions there are.
        landmarks: What a search of it begins with.
    """

    def __init__(self, units: int = 4, landmarks: Sequence[Architecture] = ()) -> None:
        self._landmarks = tuple(landmarks)
        self._decisions = {
            f"unit_{unit}": CategoricalDistribution(_SHARES) for unit in range(units)
        }

    @property
    def num_stages(self) -> int:
        """Two."""
        return 2

    def decisions(self) -> Mapping[str, BaseDistribution]:
        """One per unit."""
        return self._decisions

    def landmarks(self) -> tuple[Architecture, ...]:
        """Those it was made with."""
        return self._landmarks

    def refusal(self, architecture: Architecture) -> str | None:
        """The first unit must put something into stage 0."""
        if architecture["unit_0"] == "0-4":
            return "unit_0 leaves stage 0 empty"
        return None

    def build(self, architecture: Architecture) -> MultiStageNetwork:
        """A network that looks at the mean colour, whatever the architecture."""
        return MultiStageNetwork([_FakeStage(last=False), _FakeStage(last=True)])

    def cost(self, architecture: Architecture) -> tuple[int, ...]:
        """Sixteen a channel."""
        return tuple(16 * sum(widths) for widths in self._widths(architecture))

    def parameters(self, architecture: Architecture) -> tuple[int, ...]:
        """Seventeen a channel."""
        return tuple(17 * sum(widths) for widths in self._widths(architecture))

    def blocks(self, architecture: Architecture) -> tuple[tuple[Block, ...], ...]:
        """One per unit and stage that has channels there."""
        return tuple(
            tuple(_FakeBlock(width) for width in widths if width)
            for widths in self._widths(architecture)
        )

    def _widths(self, architecture: Architecture) -> tuple[tuple[int, ...], tuple[int, ...]]:
        splits = [str(architecture[name]).split("-") for name in self._decisions]
        return tuple(int(first) for first, _ in splits), tuple(int(last) for _, last in splits)


@final
class FakeEvaluator(Evaluator):
    """Exits that are the better the more channels their stages have, the first units most.

    Args:
        images: Size of the split.
        seconds: How long an evaluation takes.
    """

    def __init__(self, images: int = 200, seconds: float = 0.0) -> None:
        self._images = images
        self._seconds = seconds
        self.evaluated: list[Architecture] = []

    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        """Logits with noise made from the architecture and the seed."""
        time.sleep(self._seconds)
        self.evaluated.append(dict(architecture))
        rng = np.random.default_rng([seed, zlib.crc32(repr(sorted(architecture.items())).encode())])
        labels = np.random.default_rng(seed).integers(0, _CLASSES, self._images)
        logits = rng.normal(0, 1, (2, self._images, _CLASSES))
        shares = [int(str(value)[0]) for value in architecture.values()]
        weights = [1 / (1 + place) for place in range(len(shares))]
        first = sum(share * weight for share, weight in zip(shares, weights, strict=True))
        logits[0, np.arange(self._images), labels] += first / sum(weights)
        logits[1, np.arange(self._images), labels] += 2.5
        return Outputs(logits.astype(np.float32), labels.astype(np.int64))


def write_fake_table(path: Path, *, ms_per_channel: float = 0.1) -> Path:
    """Write a recorded latency table that knows all blocks of a ``FakeSpace``.

    Args:
        path: The file to write.
        ms_per_channel: What a channel costs, in milliseconds, above the call.
    """
    latencies = {"call": Latency((_CALL_MS,))}
    for width in range(1, 5):
        latencies[_FakeBlock(width).key] = Latency((_CALL_MS + ms_per_channel * width,))
    return record_table(path, latencies, device={"processor": "fake"})
