"""Regularised evolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from offramp_search.samplers._choices import choice, count, draw, generator, index

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["EvolutionSampler"]


@final
class EvolutionSampler(BaseSampler):
    """Aging evolution (Real et al. 2019, algorithm 1): the youngest live, the oldest die.

    The population is the last ``population`` complete trials. The best of ``tournament`` of them,
    drawn at random, has a child that differs in one decision. Until the population is full,
    architectures are drawn at random. Proposals that were refused are no part of it, so that an
    infeasible architecture has no children.

    Args:
        seed: Not negative.
        population: Architectures that may have children; 100 in the paper, less here because a
            search has few trials.
        tournament: Architectures that compete to have one; a quarter of the population in the
            paper.
    """

    def __init__(self, seed: int, *, population: int = 16, tournament: int = 4) -> None:
        if not 1 <= tournament <= population:
            raise ValueError(
                f"tournament must be from 1 to population, got {tournament} of {population}"
            )
        self._seed = seed
        self._population = population
        self._tournament = tournament

    def __str__(self) -> str:
        return (
            f"EvolutionSampler(seed={self._seed}, population={self._population}, "
            f"tournament={self._tournament})"
        )

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The decisions of the parent; none until the population is full."""
        parent = self._parent(study, trial)
        return {} if parent is None else dict(parent.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parent, but for one decision."""
        parent = self._parent(study, trial) if search_space else None
        if parent is None:
            return {}
        child = dict(parent.params)
        free = [name for name, kind in search_space.items() if count(name, kind) > 1]
        if free:
            rng = generator(self._seed, trial.number, "mutation")
            name = free[int(rng.integers(len(free)))]
            kind = search_space[name]
            step = 1 + int(rng.integers(count(name, kind) - 1))
            child[name] = choice(kind, (index(kind, child[name]) + step) % count(name, kind))
        return child

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> str | int:
        """A random choice, for the first architectures and for decisions the parent had not."""
        return draw(param_distribution, self._seed, trial.number, param_name)

    def _parent(self, study: Study, trial: FrozenTrial) -> FrozenTrial | None:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        # A trial that is taken up again knows no more than when it was asked for.
        alive = [other for other in complete if other.number < trial.number][-self._population :]
        if len(alive) < self._population:
            return None
        if len(study.directions) != 1:
            raise ValueError("evolution ranks by one value; the study has several directions")
        sign = -1.0 if study.direction is StudyDirection.MINIMIZE else 1.0
        rng = generator(self._seed, trial.number, "tournament")
        drawn = rng.choice(len(alive), self._tournament, replace=False)
        best: int = max(sorted(drawn.tolist()), key=lambda at: sign * _value(alive[at]))
        return alive[best]


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value
