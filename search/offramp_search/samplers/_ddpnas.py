"""Dynamic distribution pruning."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from offramp_search.samplers import _pruning
from offramp_search.samplers._choices import count, generator, index
from offramp_search.samplers._whole import Allowed, Numbers, WholeSampler, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from offramp_search.samplers._pruning import Alive, Scores
    from offramp_search.spaces import Architecture

__all__ = ["DDPNASSampler"]

_ATTEMPTS = 50
_SURVIVOR = "ddpnas survivor"


@final
class DDPNASSampler(WholeSampler):
    """Dynamic distribution pruning (Zheng et al. 2019): drop the worst choices until one is left.

    A fair round takes every choice that is alive in every decision once, each with random others.
    After ``rounds`` of them, ``E = mean over rounds of softmax(sharpness * V)``, where ``V`` holds
    for each choice the value of the architectures it was part of, and ``theta`` becomes
    ``E + 0.5 theta`` (``decay``, as published first) or ``theta + v`` with
    ``v <- 0.9 v + 0.1 E``, made to sum to one again (``momentum``, of the authors' later code).
    Then every decision loses its least likely choices. One architecture is left in the end: the
    survivor, the method's own answer (``answer``). Trials beyond that look around it: at what
    differs from it in one decision, the most likely first, then in more, nothing twice.

    Decisions need not have equally many choices: those with fewer repeat theirs within a round, as
    evenly as can be, and lose none until the others have come down to them. A choice whose
    architectures were all refused has no weight in its round.

    Args:
        seed: Not negative.
        decisions: Of the space.
        rounds: Fair rounds before each pruning; evaluations as noisy as those of shared weights
            want 5 to 10.
        update: ``decay`` or ``momentum``.
        sharpness: Of the softmax; 100 makes one point of accuracy a factor of e.
        removed_share: Share of the alive choices that a pruning removes, at least one; 0 removes
            one.
        groups: Decision -> choice -> group. No group of a decision loses its last choice while
            another group has two.
        allowed: Rounds are drawn again until all their architectures are allowed, at most fifty
            times; those that still are not go to the engine, which refuses them.
        cost: Of an architecture, such as its milliseconds.
        limit: The cost of the last architecture is not above it if any architecture's can be.
        after: Trials that others propose before its own begin.
    """

    def __init__(
        self,
        seed: int,
        decisions: Mapping[str, BaseDistribution],
        *,
        rounds: int = 3,
        update: Literal["decay", "momentum"] = "decay",
        sharpness: float = 100.0,
        removed_share: float = 0.0,
        groups: Mapping[str, Mapping[str | int, str]] | None = None,
        allowed: Allowed | None = None,
        cost: Callable[[Architecture], float] | None = None,
        limit: float = math.inf,
        after: int = 0,
    ) -> None:
        super().__init__(decisions, allowed)
        if rounds < 1 or not 0 <= removed_share < 1 or not sharpness > 0:
            raise ValueError(
                f"expected rounds of at least 1, a sharpness above 0 and a removed_share from 0 "
                f"to below 1, got {rounds}, {sharpness} and {removed_share}"
            )
        if update not in ("decay", "momentum"):
            raise ValueError(f"unknown update {update!r}; expected 'decay' or 'momentum'")
        self._seed = seed
        self._rounds = rounds
        self._update: Literal["decay", "momentum"] = update
        self._sharpness = sharpness
        self._removed_share = removed_share
        self._groups = [
            {index(kind, value): group for value, group in (groups or {}).get(name, {}).items()}
            for name, kind in self._decisions.items()
        ]
        self._cost = cost
        self._limit = limit
        self._after = after

    def __str__(self) -> str:
        return (
            f"DDPNASSampler(seed={self._seed}, rounds={self._rounds}, update={self._update!r}, "
            f"sharpness={self._sharpness}, removed_share={self._removed_share}, "
            f"limit={self._limit}, after={self._after})"
        )

    @staticmethod
    def length(
        decisions: Mapping[str, BaseDistribution], *, rounds: int = 3, removed_share: float = 0.0
    ) -> int:
        """Trials until one architecture is left."""
        alive = max(count(name, kind) for name, kind in decisions.items())
        trials = 0
        while alive > 1:
            trials += rounds * alive
            alive -= _pruning.removed(alive, removed_share)
        return trials

    def propose(self, study: Study, number: int, others: Sequence[FrozenTrial]) -> Numbers:
        """The architecture that the plan has for this trial."""
        first, phase = self._after, 0
        alive: Alive = [list(range(choices)) for choices in self._counts]
        state = _pruning.start(self._counts)
        while True:
            trials = self._rounds * max(map(len, alive))
            if max(map(len, alive)) == 1:
                survivor = self._survivor(study, tuple(choices[0] for choices in alive), state)
                if number == first:
                    return survivor
                return self._around(study, survivor, state, number, first, others)
            proposals = self._proposals(study, phase, alive)
            if number < first + trials:
                return proposals[number - first]

            def prune(
                phase: int = phase,
                first: int = first,
                proposals: list[Numbers] = proposals,
                alive: Alive = alive,
                state: Scores = state,
            ) -> dict[str, Any]:
                return self._prune(study, others, first, proposals, alive, state)

            kept = plan(study, f"ddpnas pruning {phase}", prune)
            alive = [list(choices) for choices in kept["alive"]]
            state = _pruning.Scores.read(kept["scores"])
            first += trials
            phase += 1

    def _proposals(self, study: Study, phase: int, alive: Alive) -> list[Numbers]:
        def make() -> list[Numbers]:
            found: list[Numbers] = []
            for at in range(self._rounds):
                rng = generator(self._seed, phase * self._rounds + at, "round")
                best: list[Numbers] = []
                fewest = math.inf
                for _ in range(_ATTEMPTS):
                    drawn = _pruning.fair_round(alive, rng)
                    broken = sum(not self.is_allowed(numbers) for numbers in drawn)
                    if broken < fewest:
                        best, fewest = drawn, broken
                    if not broken:
                        break
                found += best
            return found

        return [tuple(numbers) for numbers in plan(study, f"ddpnas rounds {phase}", make)]

    def _prune(
        self,
        study: Study,
        others: Sequence[FrozenTrial],
        first: int,
        proposals: list[Numbers],
        alive: Alive,
        state: Scores,
    ) -> dict[str, Any]:
        values = [math.nan] * len(proposals)
        for trial in others:
            if first <= trial.number < first + len(proposals):
                for value in self.values(study, [trial]).values():
                    values[trial.number - first] = value
        size = len(proposals) // self._rounds
        evidence = _pruning.evidence(
            np.array(proposals).reshape(self._rounds, size, -1),
            np.array(values).reshape(self._rounds, size),
            alive,
            self._counts,
            self._sharpness,
        )
        state = _pruning.update(state, evidence, self._update)
        alive = _pruning.prune(
            alive, state.theta, self._removed_share, self._groups, self._feasible()
        )
        return {"alive": alive, "scores": state.write()}

    def _survivor(self, study: Study, survivor: Numbers, state: Scores) -> Numbers:
        """The last architecture, changed if pruning could not keep it within the limit."""

        def make() -> Numbers:
            feasible = self._feasible()
            repaired = (
                None if feasible is None else _pruning.repair(survivor, state.theta, feasible)
            )
            return survivor if repaired is None else repaired

        return tuple(plan(study, _SURVIVOR, make))

    def answer(self, study: Study) -> Architecture | None:
        """The survivor, once there is one."""
        numbers = study.user_attrs.get(_SURVIVOR)
        return None if numbers is None else self.architecture(tuple(numbers))

    def _around(
        self,
        study: Study,
        survivor: Numbers,
        state: Scores,
        number: int,
        first: int,
        others: Sequence[FrozenTrial],
    ) -> Numbers:
        """What a trial after the survivor's proposes; the survivor if nothing new is found."""
        before = {
            trial.number: numbers
            for trial in others
            if trial.number < number and (numbers := self.numbers_of(study, trial)) is not None
        }
        planned = {numbers for at, numbers in before.items() if at <= first}
        near = [
            numbers
            for numbers in _pruning.neighbours(survivor, state.theta)
            if numbers not in planned and self.is_allowed(numbers)
        ]
        rank = number - first - 1
        if rank < len(near):
            return near[rank]
        seen = planned.union(near, before.values())
        rng = generator(self._seed, number, "around")
        for attempt in range(_ATTEMPTS):
            # The further away, the longer nothing new is found.
            changes = min(len(survivor), 2 + attempt // 10)
            drawn = list(survivor)
            for at in rng.choice(len(survivor), changes, replace=False).tolist():
                drawn[at] = int(rng.integers(self._counts[at]))
            if tuple(drawn) not in seen and self.is_allowed(tuple(drawn)):
                return tuple(drawn)
        return survivor

    def _feasible(self) -> _pruning.Feasible | None:
        if self._cost is None:
            return None
        cost = self._cost
        return _pruning.Feasible(lambda numbers: cost(self.architecture(numbers)), self._limit)
