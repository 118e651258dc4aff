"""Optuna's own samplers, made to forget nothing on resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from optuna.samplers import BaseSampler

from offramp_search.samplers._choices import count, generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

__all__ = ["ReseededSampler"]


@final
class ReseededSampler(BaseSampler):
    """Makes a new sampler for every trial, seeded by the seed and the trial's number.

    Optuna's samplers keep a generator that a resumed process starts anew, and two workers with
    one seed propose the same points. A sampler that is made for one trial and knows only the
    finished ones (TPE, NSGA-II, random) has neither fault.

    Args:
        make: A seed -> the sampler for one trial, such as ``lambda s: TPESampler(seed=s)``.
        seed: Not negative.
        name: What the sampler is called where a search keeps its settings; by default the name
            that the wrapped sampler gives itself.
    """

    def __init__(
        self, make: Callable[[int], BaseSampler], seed: int, *, name: str | None = None
    ) -> None:
        self._make = make
        self._seed = seed
        self._name = str(make(0)) if name is None else name
        self._made: dict[int, BaseSampler] = {}

    def __str__(self) -> str:
        return f"ReseededSampler({self._name}, seed={self._seed})"

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._made:
            seed = int(generator(self._seed, trial.number).integers(2**32))
            self._made[trial.number] = self._make(seed)
        return self._made[trial.number]

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The wrapped sampler's."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The wrapped sampler's."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The wrapped sampler's, of a decision that a search space may have."""
        count(param_name, param_distribution)
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """The wrapped sampler's."""
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """The wrapped sampler's, which is then thrown away."""
        self._of(trial).after_trial(study, trial, state, values)
        del self._made[trial.number]
