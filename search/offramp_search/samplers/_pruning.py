"""Distribution pruning as functions of arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from offramp_search.samplers._whole import Numbers

__all__ = [
    "Alive",
    "Feasible",
    "Scores",
    "evidence",
    "fair_round",
    "neighbours",
    "prune",
    "removed",
    "repair",
    "start",
    "update",
]

Alive = list[list[int]]
"""For each decision the numbers of its choices that are left."""

_DECAY = 0.5
_MOMENTUM = 0.9


@final
@dataclass(frozen=True, slots=True)
class Scores:
    """What was learnt of every choice.

    Attributes:
        theta: For each decision ``(choices,)`` float64; larger is better.
        velocity: The same shapes; only of the update with momentum.
    """

    theta: list[NDArray[np.float64]]
    velocity: list[NDArray[np.float64]]

    def write(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "theta": [row.tolist() for row in self.theta],
            "velocity": [row.tolist() for row in self.velocity],
        }

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> Self:
        """What ``write`` wrote."""
        return cls(*([np.array(row) for row in kept[name]] for name in ("theta", "velocity")))


def start(counts: Sequence[int]) -> Scores:
    """Every choice equally likely."""
    return Scores([np.full(n, 1 / n) for n in counts], [np.zeros(n) for n in counts])


def fair_round(alive: Alive, rng: np.random.Generator) -> list[Numbers]:
    """As many architectures as the longest decision has choices left.

    Each takes all of its own once; shorter ones repeat theirs, as evenly as can be.
    """
    size = max(map(len, alive))
    columns = []
    for choices in alive:
        column: list[int] = []
        while len(column) < size:
            column += rng.permutation(choices).tolist()
        columns.append(rng.permutation(column[:size]).tolist())
    return list(zip(*columns, strict=True))


def evidence(
    architectures: NDArray[np.int64],
    values: NDArray[np.float64],
    alive: Alive,
    counts: Sequence[int],
    sharpness: float,
) -> list[NDArray[np.float64]]:
    """For each decision ``(choices,)`` float64: ``E``, the mean softmax over the rounds.

    Args:
        architectures: ``(rounds, size, decisions)`` int64.
        values: ``(rounds, size)`` float64, NaN where there is none.
        alive: Choices that took part.
        counts: Choices that there were in the beginning.
        sharpness: Factor of the values before the softmax.
    """
    rounds, most = len(architectures), max(counts)
    there = np.zeros((len(counts), most), dtype=bool)
    for decision, choices in enumerate(alive):
        there[decision, choices] = True
    known = ~np.isnan(values)
    total = np.zeros((len(counts), most))
    for numbers, of_round, valid in zip(architectures, values, known, strict=True):
        mean = np.full((len(counts), most), -np.inf)
        for taken in range(most):
            met = (numbers[valid] == taken).astype(np.float64)
            times = met.sum(0)
            some = (times > 0) & there[:, taken]
            mean[some, taken] = (of_round[valid] @ met)[some] / times[some]
        best = mean.max(1, keepdims=True)
        any_ = np.isfinite(best[:, 0])
        weights = np.exp(sharpness * (mean[any_] - best[any_]))
        total[any_] += weights / weights.sum(1, keepdims=True) / rounds
    return [row[:count] for row, count in zip(total, counts, strict=True)]


def update(
    scores: Scores, found: list[NDArray[np.float64]], kind: Literal["decay", "momentum"]
) -> Scores:
    """Theta after a phase: ``E + 0.5 theta``, or ``theta + v`` with ``v <- 0.9 v + 0.1 E``."""
    if kind == "decay":
        theta = [new + _DECAY * old for new, old in zip(found, scores.theta, strict=True)]
        return Scores(theta, scores.velocity)
    velocity = [
        _MOMENTUM * old + (1 - _MOMENTUM) * new
        for new, old in zip(found, scores.velocity, strict=True)
    ]
    theta = [old + step for old, step in zip(scores.theta, velocity, strict=True)]
    return Scores([row / row.sum() for row in theta], velocity)


def removed(alive: int, share: float) -> int:
    """How many of the alive choices a pruning removes; one is always left."""
    return min(alive - 1, max(1, int(share * alive)))


@final
@dataclass(slots=True)
class Feasible:
    """Whether what is left still holds an architecture within a limit.

    The cheapest is looked for one decision at a time, which finds it if costs add up.

    Attributes:
        cost: Of an architecture.
        limit: The largest cost allowed.
    """

    cost: Callable[[Numbers], float]
    limit: float
    _known: dict[Numbers, float] = field(default_factory=dict)

    def of(self, numbers: Numbers) -> float:
        """The cost, computed once."""
        if numbers not in self._known:
            self._known[numbers] = self.cost(numbers)
        return self._known[numbers]

    def cheapest(self, alive: Alive, begin: Numbers) -> Numbers:
        """The cheapest found among the alive, from an architecture that need not be alive."""
        now = tuple(
            at if at in choices else choices[0] for at, choices in zip(begin, alive, strict=True)
        )
        while True:
            before = now
            for decision, choices in enumerate(alive):
                others = [(*now[:decision], other, *now[decision + 1 :]) for other in choices]
                now = min([now, *others], key=self.of)
            if self.of(now) >= self.of(before):
                return before


def prune(
    alive: Alive,
    theta: list[NDArray[np.float64]],
    share: float,
    groups: Sequence[Mapping[int, str]],
    feasible: Feasible | None,
) -> Alive:
    """Remove the least likely choices of the decisions that have most of them.

    With a limit, a choice no architecture of which can keep it goes first, and none goes if
    without it no architecture could.
    """
    alive = [list(choices) for choices in alive]
    longest = max(map(len, alive))
    target = longest - removed(longest, share)
    witness = None
    if feasible is not None:
        witness = feasible.cheapest(alive, tuple(choices[0] for choices in alive))
    for decision, choices in enumerate(alive):
        while len(choices) > target:
            order = sorted(choices, key=lambda at: (theta[decision][at], -at))
            order = _guarded(order, groups[decision])
            if feasible is not None and witness is not None:
                order = _latency_aware(order, alive, decision, feasible, witness)
            choices.remove(order[0])
            if feasible is not None and witness is not None:
                witness = feasible.cheapest(alive, witness)
    return alive


def _guarded(order: list[int], groups: Mapping[int, str]) -> list[int]:
    """Choices that may go, without the last of a group as long as another group has two."""
    sizes: dict[str | None, int] = {}
    for at in order:
        sizes[groups.get(at)] = sizes.get(groups.get(at), 0) + 1
    return [at for at in order if sizes[groups.get(at)] > 1] or order


def _latency_aware(
    order: list[int], alive: Alive, decision: int, feasible: Feasible, witness: Numbers
) -> list[int]:
    if feasible.of(witness) > feasible.limit:
        return order  # nothing keeps the limit: the most likely are as good as any
    first, free = [], []
    for at in order:
        changed = (*witness[:decision], at, *witness[decision + 1 :])
        if feasible.of(changed) > feasible.limit:
            fixed = [[at] if place == decision else left for place, left in enumerate(alive)]
            if feasible.of(feasible.cheapest(fixed, changed)) > feasible.limit:
                first.append(at)  # of no use to anyone
                continue
        if at != witness[decision]:
            free.append(at)
            continue
        rest = [
            [other for other in left if other != at] if place == decision else left
            for place, left in enumerate(alive)
        ]
        if feasible.of(feasible.cheapest(rest, witness)) <= feasible.limit:
            free.append(at)
    return [*first, *free] or order  # a group guard may leave none that is free to go


def neighbours(survivor: Numbers, theta: list[NDArray[np.float64]]) -> list[Numbers]:
    """What differs from the survivor in one decision, the least loss of theta first."""
    losses = {
        (*survivor[:decision], other, *survivor[decision + 1 :]): row[survivor[decision]]
        - row[other]
        for decision, row in enumerate(theta)
        for other in range(len(row))
        if other != survivor[decision]
    }
    return sorted(losses, key=lambda numbers: (losses[numbers], numbers))


def repair(
    survivor: Numbers, theta: list[NDArray[np.float64]], feasible: Feasible
) -> Numbers | None:
    """Swap single choices until the limit is kept, at the least loss of theta per cost saved.

    Returns:
        The architecture; ``None`` if no swap saves anything and the limit is still broken.
    """
    now = survivor
    while feasible.of(now) > feasible.limit:
        best, least = None, math.inf
        for decision, row in enumerate(theta):
            for other in range(len(row)):
                changed = (*now[:decision], other, *now[decision + 1 :])
                saved = feasible.of(now) - feasible.of(changed)
                if saved > 0:
                    loss = float(row[now[decision]] - row[other]) / saved
                    if loss < least:
                        best, least = changed, loss
        if best is None:
            return None
        now = best
    return now
