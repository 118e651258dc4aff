"""Uniform choices: the baseline of every search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from optuna.samplers import BaseSampler

from offramp_search.samplers._choices import draw

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["RandomSampler"]


@final
class RandomSampler(BaseSampler):
    """Takes every choice of every decision with equal probability.

    Unlike Optuna's own, it draws from a generator made from the seed, the trial and the decision,
    so that neither a resumed search nor a second worker repeats itself.

    Args:
        seed: Not negative.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __str__(self) -> str:
        return f"RandomSampler(seed={self._seed})"

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """None: every decision is drawn on its own."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """None: every decision is drawn on its own."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> str | int:
        """Draw one decision."""
        return draw(param_distribution, self._seed, trial.number, param_name)
