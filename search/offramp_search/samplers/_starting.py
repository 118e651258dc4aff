"""A sampler that first proposes what it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from optuna.samplers import BaseSampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

    from offramp_search.spaces import Architecture

__all__ = ["StartingSampler"]


@final
class StartingSampler(BaseSampler):
    """Proposes some architectures, then what another sampler does, which sees their trials too.

    Args:
        sampler: Proposes after them. One that plans by the numbers of trials has to be told how
            many come before its own.
        first: The architectures; each has all decisions of the space.
    """

    def __init__(self, sampler: BaseSampler, first: Sequence[Architecture]) -> None:
        self._sampler = sampler
        self._first = tuple(dict(architecture) for architecture in first)

    def __str__(self) -> str:
        return f"{self._sampler}, after {[list(one.values()) for one in self._first]}"

    @property
    def sampler(self) -> BaseSampler:
        """The one that proposes after the first architectures."""
        return self._sampler

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """None for the first architectures, then the other sampler's."""
        if trial.number < len(self._first):
            return {}
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing for the first architectures, then the other sampler's."""
        if trial.number < len(self._first):
            return {}
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A decision of the first architectures, then the other sampler's."""
        if trial.number >= len(self._first):
            return self._sampler.sample_independent(study, trial, param_name, param_distribution)
        first = self._first[trial.number]
        if param_name not in first:
            # The other sampler says what is wrong with a decision that no space can have.
            self._sampler.sample_independent(study, trial, param_name, param_distribution)
            raise ValueError(
                f"architecture {trial.number} to begin with lacks the decision {param_name!r}; "
                "give architectures of the space that is searched"
            )
        return first[param_name]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """The other sampler's."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """The other sampler's."""
        self._sampler.after_trial(study, trial, state, values)
