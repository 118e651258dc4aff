"""Samplers that propose all decisions of an architecture together."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from offramp_search.samplers._choices import choice, count, index

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from offramp_search.spaces import Architecture

__all__ = ["Allowed", "Numbers", "WholeSampler", "plan"]

Numbers = tuple[int, ...]
"""An architecture as the number of the choice of each decision."""

Allowed = Callable[["Architecture"], bool]
"""Whether an architecture can keep the budget at all."""


class WholeSampler(BaseSampler):
    """Knows the space from the beginning and proposes whole architectures.

    What is planned for several trials ahead is kept in the study under the name of the plan, so
    that workers that share a storage follow one plan and a resumed search follows the old one.

    Args:
        decisions: Of the space, in the order they are best taken.
        allowed: Architectures that are not are never proposed.
    """

    def __init__(
        self, decisions: Mapping[str, BaseDistribution], allowed: Allowed | None = None
    ) -> None:
        if not decisions:
            raise ValueError("the space has no decisions; there is nothing to search")
        self._decisions = dict(decisions)
        self._counts = tuple(count(name, kind) for name, kind in decisions.items())
        self._choices = {
            name: [choice(kind, at) for at in range(choices)]
            for (name, kind), choices in zip(decisions.items(), self._counts, strict=True)
        }
        self._places = {
            name: {value: at for at, value in enumerate(values)}
            for name, values in self._choices.items()
        }
        self._allowed = allowed
        self._study: weakref.ref[Study] | None = None
        self._read: dict[int, Numbers] = {}

    @abstractmethod
    def propose(self, study: Study, number: int, others: Sequence[FrozenTrial]) -> Numbers:
        """The architecture of a trial.

        Args:
            study: The study.
            number: Of the trial.
            others: All other trials of the study, by number.
        """

    def answer(self, study: Study) -> Architecture | None:
        """The architecture that the method itself ends with, if that is not the best trial."""
        return None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All decisions of the space."""
        if len(study.directions) != 1:
            raise ValueError(f"{self} ranks by one value; the study has several directions")
        return dict(self._decisions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose a whole architecture."""
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        return dict(self.architecture(self.propose(study, trial.number, others)))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> NoReturn:
        """Refuse a decision that is not in the space."""
        count(param_name, param_distribution)
        raise ValueError(
            f"decision {param_name!r} with {param_distribution} is not in the space that {self} "
            f"was made for; make it with the decisions of the space that is searched"
        )

    def architecture(self, numbers: Numbers) -> Architecture:
        """The decisions with these numbers."""
        return {
            name: values[at]
            for (name, values), at in zip(self._choices.items(), numbers, strict=True)
        }

    def numbers(self, architecture: Mapping[str, Any]) -> Numbers:
        """The numbers of these decisions.

        Raises:
            ValueError: A decision is missing, or a choice unknown.
        """
        missing = [name for name in self._decisions if name not in architecture]
        if missing:
            raise ValueError(f"an architecture lacks the decision {missing[0]!r}")
        try:
            return tuple([places[architecture[name]] for name, places in self._places.items()])
        except (KeyError, TypeError):  # says which choice is unknown
            return tuple(index(kind, architecture[name]) for name, kind in self._decisions.items())

    def numbers_of(self, study: Study, trial: FrozenTrial) -> Numbers | None:
        """The numbers of a trial, read once; ``None`` while not all its decisions are known."""
        if self._study is None or self._study() is not study:
            self._study, self._read = weakref.ref(study), {}
        found = self._read.get(trial.number)
        if found is None and self.is_whole(trial):
            found = self._read[trial.number] = self.numbers(trial.params)
        return found

    def is_allowed(self, numbers: Numbers) -> bool:
        """Whether an architecture may be proposed."""
        return self._allowed is None or self._allowed(self.architecture(numbers))

    def is_whole(self, trial: FrozenTrial) -> bool:
        """Whether all decisions of a trial are known by now."""
        return self._decisions.keys() <= trial.params.keys()

    def values(self, study: Study, trials: Sequence[FrozenTrial]) -> dict[Numbers, float]:
        """Architecture -> mean value of its complete trials; larger is better."""
        sign = -1.0 if study.direction is StudyDirection.MINIMIZE else 1.0
        found: dict[Numbers, list[float]] = {}
        for trial in trials:
            numbers = self.numbers_of(study, trial)
            if trial.state is TrialState.COMPLETE and numbers is not None:
                assert trial.value is not None
                found.setdefault(numbers, []).append(sign * trial.value)
        return {numbers: sum(values) / len(values) for numbers, values in found.items()}


def plan(study: Study, name: str, make: Callable[[], Any]) -> Any:
    """What the study keeps under a name, made and kept if it keeps nothing yet."""
    kept = _attributes(study)
    if name not in kept:
        study.set_user_attr(name, make())
        kept = _attributes(study)
    return kept[name]


def _attributes(study: Study) -> dict[str, Any]:
    """As ``study.user_attrs``, which copies all of them at every look: plans are large."""
    return study._storage.get_study_user_attrs(study._study_id)
