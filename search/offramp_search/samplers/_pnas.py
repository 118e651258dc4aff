"""Progressive search with a surrogate."""

from __future__ import annotations

import math
from itertools import groupby, product
from typing import TYPE_CHECKING, final

import numpy as np
from optuna.distributions import CategoricalDistribution

from offramp_search.samplers._choices import count, generator
from offramp_search.samplers._surrogates import SurrogateKind, predict_ensemble
from offramp_search.samplers._whole import Allowed, Numbers, WholeSampler, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from numpy.typing import NDArray
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from offramp_search.spaces import Architecture

__all__ = ["PNASSampler"]

_MOST_CANDIDATES = 20_000
# Of all candidates of a level together: of more than a thousand decisions there are fewer.
_MOST_CHOICES = 20_000_000
_TIED = 3
"""Decimals of predictions that count, in standard deviations of what was evaluated."""


@final
class PNASSampler(WholeSampler):
    """Progressive neural architecture search (Liu et al. 2018), over the decisions of any space.

    Level 0 frees the first decisions and evaluates all their combinations, the others at a neutral
    choice. Every further level frees the next: the best architectures so far are extended by each
    of its choices, a surrogate that was trained on all evaluations ranks them, and the best
    ``beam`` are evaluated. When all decisions are free, the levels go on with all changes of one
    decision.

    Candidates that are not ``allowed``, were proposed before, or equal another in ``canonical``
    form never reach the beam. Of equal values or predictions the cheaper
    comes first.

    Decisions that say one thing together (a block of a cell: two inputs, two operations) are a
    unit: they are freed together, and the surrogate reads them as one token. A unit may be absent;
    then the surrogate does not read it, so that it sees shorter architectures as shorter
    sequences.

    Args:
        seed: Not negative.
        decisions: Of the space, in the order they are to be freed.
        neutral: A choice for each decision that makes a working network while it is not free; a
            broken one (no operation, an empty stage) misleads the search.
        beam: Architectures evaluated per level, and extended in the next.
        first: Units that level 0 frees.
        most_first: Architectures of level 0 at most; drawn at random if there are more.
        step: Units that every further level frees.
        surrogate: ``mlp``, which extrapolates better, or ``lstm``.
        allowed: Whether an architecture can keep the budget.
        canonical: Equal for architectures that are the same network.
        cost: Of an architecture, such as its multiply-adds.
        units: How many decisions, one after the other, each unit has; one each by default.
        absent: A unit whose first decision has this choice is not there.
    """

    def __init__(
        self,
        seed: int,
        decisions: Mapping[str, BaseDistribution],
        *,
        neutral: Architecture,
        beam: int = 8,
        first: int = 2,
        most_first: int = 32,
        step: int = 1,
        surrogate: SurrogateKind = "mlp",
        allowed: Allowed | None = None,
        canonical: Callable[[Architecture], Hashable] | None = None,
        cost: Callable[[Architecture], float] | None = None,
        units: Sequence[int] | None = None,
        absent: str | None = None,
    ) -> None:
        super().__init__(decisions, allowed)
        if min(beam, first, most_first, step) < 1:
            raise ValueError(
                f"beam, first, most_first and step must be at least 1, got {beam}, {first}, "
                f"{most_first}, {step}"
            )
        if surrogate not in ("mlp", "lstm"):
            raise ValueError(f"unknown surrogate {surrogate!r}; expected 'mlp' or 'lstm'")
        self._units = tuple(units or [1] * len(self._counts))
        if sum(self._units) != len(self._counts) or min(self._units) < 1:
            raise ValueError(
                f"units must be positive and share out all {len(self._counts)} decisions, got "
                f"{self._units}"
            )
        self._seed = seed
        self._neutral = self.numbers(neutral)
        self._beam = beam
        self._first = first
        self._most_first = most_first
        self._step = step
        self._most = min(_MOST_CANDIDATES, max(1, _MOST_CHOICES // len(self._counts)))
        self._surrogate: SurrogateKind = surrogate
        self._canonical = canonical
        self._cost = cost
        self._absent = _absent(list(self._decisions.values()), absent)
        self._vocabularies = _vocabularies(list(self._decisions.values()))

    def __str__(self) -> str:
        return (
            f"PNASSampler(seed={self._seed}, beam={self._beam}, first={self._first}, "
            f"most_first={self._most_first}, step={self._step}, surrogate={self._surrogate!r}, "
            f"neutral={self._neutral}, units={self._units})"
        )

    def propose(self, study: Study, number: int, others: Sequence[FrozenTrial]) -> Numbers:
        """The best predicted architecture of the level that no trial has."""
        known = [self.numbers_of(study, trial) for trial in others]
        proposed = {numbers for numbers in known if numbers is not None}
        # Workers that ask at this moment get the ones before ours.
        ahead = sum(
            trial.number < number and not trial.state.is_finished() and numbers is None
            for trial, numbers in zip(others, known, strict=True)
        )
        values: dict[Numbers, float] | None = None
        level = 0
        while True:

            def make(level: int = level) -> list[Numbers]:
                return self._level(level, self.values(study, others), proposed)

            beam = [tuple(numbers) for numbers in plan(study, f"pnas level {level}", make)]
            left = [numbers for numbers in beam if numbers not in proposed]
            if ahead < len(left):
                return left[ahead]
            ahead -= len(left)
            if not beam and self._freed(level - 1) == len(self._counts):
                break
            level += 1
        # Everything in reach was proposed: the best once more, which costs no evaluation.
        values = self.values(study, others)
        return max(values, key=lambda numbers: values[numbers]) if values else self._neutral

    def _freed(self, level: int) -> int:
        """How many decisions are free."""
        units = self._first + self._step * level if level >= 0 else 0
        return sum(self._units[:units])

    def _level(
        self, level: int, values: Mapping[Numbers, float], proposed: set[Numbers]
    ) -> list[Numbers]:
        rng = generator(self._seed, level, "level")
        candidates = self._candidates(level, values, rng)
        candidates = self._fresh(candidates, proposed)
        if level == 0:
            candidates = [numbers for numbers in candidates if self.is_allowed(numbers)]
            if len(candidates) <= self._most_first:
                return candidates
            drawn = rng.choice(len(candidates), self._most_first, replace=False)
            return [candidates[at] for at in sorted(drawn.tolist())]
        if not candidates:
            return candidates
        if not values:  # everything was refused so far
            return self._best(candidates, rng.permutation(len(candidates)).astype(np.float64))
        scores = predict_ensemble(
            self._surrogate,
            np.array(list(values), dtype=np.int64),
            np.array(list(values.values())),
            np.array(candidates, dtype=np.int64),
            vocabularies=self._vocabularies,
            units=self._units,
            absent=self._absent,
            seed=int(rng.integers(2**31)),
        )
        return self._best(candidates, np.round(scores, _TIED))

    def _best(self, candidates: list[Numbers], scores: NDArray[np.float64]) -> list[Numbers]:
        """The beam: the highest scores that are allowed, of equal ones the cheaper.

        No more are looked at than it takes: a cell's cost takes longer than its prediction.
        """
        found: list[Numbers] = []
        order = np.argsort(-scores, kind="stable").tolist()
        for _, tied in groupby(order, key=lambda at: float(scores[at])):
            allowed = [candidates[at] for at in tied if self.is_allowed(candidates[at])]
            found += sorted(allowed, key=self._cost_of)
            if len(found) >= self._beam:
                break
        return found[: self._beam]

    def _candidates(
        self, level: int, values: Mapping[Numbers, float], rng: np.random.Generator
    ) -> list[Numbers]:
        before, now = self._freed(level - 1), self._freed(level)
        if level == 0:
            return self._extend([self._neutral], range(now), self._most, rng)
        parents = sorted(
            values, key=lambda numbers: (-values[numbers], self._cost_of(numbers), numbers)
        )
        parents = parents[: self._beam]
        parents = parents or [self._neutral]
        if before < now:
            return self._extend(parents, range(before, now), self._most, rng)
        changes = [
            (parent, at, other)
            for parent in parents
            for at, count in enumerate(self._counts)
            for other in range(count)
            if other != parent[at]
        ]
        if len(changes) * len(self._counts) > _MOST_CHOICES:
            drawn = rng.choice(len(changes), self._most, replace=False)
            changes = [changes[at] for at in sorted(drawn.tolist())]
        return [(*parent[:at], other, *parent[at + 1 :]) for parent, at, other in changes]

    def _extend(
        self, parents: list[Numbers], free: range, most: int, rng: np.random.Generator
    ) -> list[Numbers]:
        """Every parent with every combination of the free decisions, or as many as are asked."""
        counts = [self._counts[at] for at in free]
        combinations = math.prod(counts)
        if combinations * len(parents) <= most:
            tails = [(parent, tail) for parent in parents for tail in product(*map(range, counts))]
        else:
            drawn = np.stack([rng.integers(count, size=most) for count in counts], axis=1)
            tails = [
                (parents[at % len(parents)], tuple(tail)) for at, tail in enumerate(drawn.tolist())
            ]
        return [(*parent[: free.start], *tail, *parent[free.stop :]) for parent, tail in tails]

    def _fresh(self, candidates: list[Numbers], proposed: set[Numbers]) -> list[Numbers]:
        """Those that were not proposed and are not the same network as another."""
        seen = {self._form(numbers) for numbers in proposed}
        fresh = []
        for numbers in candidates:
            form = self._form(numbers)
            if form not in seen:
                seen.add(form)
                fresh.append(numbers)
        return fresh

    def _cost_of(self, numbers: Numbers) -> float:
        return 0.0 if self._cost is None else self._cost(self.architecture(numbers))

    def _form(self, numbers: Numbers) -> Hashable:
        return numbers if self._canonical is None else self._canonical(self.architecture(numbers))


def _absent(kinds: list[BaseDistribution], absent: str | None) -> list[int]:
    """For each decision the number of the choice that means absence, -1 where there is none."""
    return [
        kind.choices.index(absent)
        if isinstance(kind, CategoricalDistribution) and absent in kind.choices
        else -1
        for kind in kinds
    ]


def _vocabularies(kinds: list[BaseDistribution]) -> list[int]:
    """For each decision the first row of its choices; equal distributions share their rows."""
    met: list[tuple[BaseDistribution, int]] = []
    rows = 0
    offsets = []
    for kind in kinds:
        row = next((row for known, row in met if known == kind), None)
        if row is None:
            row, rows = rows, rows + count("", kind)
            met.append((kind, row))
        offsets.append(row)
    return offsets
