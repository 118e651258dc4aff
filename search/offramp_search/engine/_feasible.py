"""Whether a budget can be kept at all, and what the smallest latency and size are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, final

import numpy as np
from optuna.distributions import CategoricalDistribution, IntDistribution

from offramp.errors import InfeasibleBudgetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from optuna.distributions import BaseDistribution

    from offramp_search.budget import Budget, Limit
    from offramp_search.devices import LatencyTable
    from offramp_search.spaces import Architecture, Block, Space

__all__ = ["find_feasible"]

_STARTS = 6
_DRAWS = 1_000
# So many are looked at one by one, in a minute at most.
_EVERYTHING = 10_000


def find_feasible(
    space: Space,
    table: LatencyTable,
    budget: Budget,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Architecture:
    """Find an architecture that keeps a budget; costs no training and no forward pass.

    What an architecture takes of a limit is bounded from below by its blocks that were measured
    already: for ``mean_ms`` those of stage 0, where every image could leave, for ``worst_ms`` those
    of all stages. The bound is minimised by coordinate descent, all choices of one decision at a
    time, from several starts: the space's neutral architecture, the first and the last choice
    everywhere, and random ones. Blocks are measured when the bound of a better choice needs
    them, so what is found is what ``LatencyTable.predict`` says. If no start leads to an
    architecture that keeps the budget and the space has ten thousand architectures at most, all
    are looked at. Of a recorded table only architectures are considered whose blocks it has.

    Args:
        space: What may be built.
        table: Where latencies are looked up, and measured if they are missing.
        budget: What is limited.
        seed: Of the random starts.
        progress: Called with (blocks measured, blocks to measure) of each measurement.

    Raises:
        InfeasibleBudgetError: None was found; says the smallest that is reachable, and whether all
            architectures were looked at.
        DeviceError: A block cannot be measured.
    """
    least = _Minimum(space, table, budget.limits(), seed, progress).find()
    if least.share <= 1:
        return least.architecture
    alone = [
        (limit, _Minimum(space, table, (limit,), seed, progress).find())
        for limit in budget.limits()
    ]
    raise _error(alone, least)


@final
@dataclass(frozen=True, slots=True)
class _Least:
    """The architecture that takes the least.

    Attributes:
        architecture: Its decisions.
        limit: The one that it takes most of.
        share: How much of it.
        exact: Whether every architecture was looked at.
    """

    architecture: Architecture
    limit: Limit
    share: float
    exact: bool = False

    @property
    def value(self) -> float:
        """What it takes, in the unit of the limit."""
        return self.share * self.limit.at_most


class _Minimum:
    """Looks for the architecture that takes the smallest share of some limits."""

    def __init__(
        self,
        space: Space,
        table: LatencyTable,
        limits: Sequence[Limit],
        seed: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._space, self._table, self._limits = space, table, limits
        self._seed, self._progress = seed, progress
        self._choices = {name: _choices_of(name, d) for name, d in space.decisions().items()}
        self._needed = max(limit.stages(space.num_stages) for limit in limits)

    def find(self) -> _Least:
        """Descend from one start after the other until the limits are kept."""
        best: _Least | None = None
        for start in self._starts():
            found = self._descend(start)
            if found is not None and (best is None or found.share < best.share):
                best = found
            if best is not None and best.share <= 1:
                return best
        if math.prod(map(len, self._choices.values())) <= _EVERYTHING:
            every = (
                dict(zip(self._choices, choices, strict=True))
                for choices in product(*self._choices.values())
            )
            found = self._best(every, math.inf if best is None else best.share)
            best = found or best
            if best is not None:
                return replace(best, exact=True)
        if best is None:
            for start in self._starts():
                if self._space.refusal(start) is None:
                    # Of a recorded table: says what it lacks.
                    self._table.require(b for stage in self._stages(start) for b in stage)
            raise InfeasibleBudgetError(
                f"none of {_DRAWS} random architectures is a valid network; use fewer stages, or "
                "search another space",
                smallest=math.inf,
            )
        return best

    def _starts(self) -> Iterator[Architecture]:
        neutral = self._space.neutral()
        if neutral is not None:
            yield neutral
        for end in (0, -1):
            yield {name: choices[end] for name, choices in self._choices.items()}
        for start in range(_STARTS):
            yield from self._draw(start)

    def _draw(self, start: int) -> Iterator[Architecture]:
        """The first of many random architectures that is a network; none if there is none."""
        rng = np.random.default_rng([self._seed, start])
        for _ in range(_DRAWS):
            architecture = {
                name: choices[int(rng.integers(len(choices)))]
                for name, choices in self._choices.items()
            }
            if self._space.refusal(architecture) is None:
                yield architecture
                return

    def _descend(self, start: Architecture) -> _Least | None:
        current = self._best([start], math.inf)
        if current is None:
            return None
        improved = True
        while improved and current.share > 1:
            improved = False
            for name, choices in self._choices.items():
                options = [
                    {**current.architecture, name: choice}
                    for choice in choices
                    if choice != current.architecture[name]
                ]
                better = self._best(options, current.share)
                if better is not None:
                    current, improved = better, True
                if current.share <= 1:
                    break
        return current

    def _best(self, options: Iterable[Architecture], below: float) -> _Least | None:
        """The option that takes least, if that is less than so much; its blocks are known."""
        looked = [self._look(option) for option in options]
        while True:
            looked = [one for one in looked if one.least.share < below]
            if self._table.is_recorded:
                looked = [one for one in looked if not one.unknown]
            if not looked:
                return None
            best = min(looked, key=lambda one: one.least.share)
            if not best.unknown:
                return best.least
            # No more than the best that is known makes necessary.
            most = min((one.least.share for one in looked if not one.unknown), default=math.inf)
            self._table.require(
                [block for one in looked if one.least.share < most for block in one.unknown],
                self._progress,
            )
            looked = [self._look(one.least.architecture) for one in looked]

    def _stages(self, architecture: Architecture) -> Sequence[Sequence[Block]]:
        """The blocks of the stages that the limits ask for."""
        return self._space.blocks(architecture)[: self._needed] if self._needed else ()

    def _look(self, architecture: Architecture) -> _Looked:
        if self._space.refusal(architecture) is not None:
            return _Looked(_Least(architecture, self._limits[0], math.inf), ())
        stages = self._stages(architecture)
        stage_ms = self._table.lower_bounds_ms(stages)
        size_bytes = self._table.size_bytes(self._space.parameters(architecture))
        share, place = max(
            (limit.value(stage_ms, size_bytes) / limit.at_most, -place)
            for place, limit in enumerate(self._limits)
        )
        unknown = self._table.missing(block for stage in stages for block in stage)
        return _Looked(_Least(architecture, self._limits[-place], share), unknown)


@final
@dataclass(frozen=True, slots=True)
class _Looked:
    """What an architecture takes at least, and the blocks that are not known yet."""

    least: _Least
    unknown: tuple[Block, ...]


def _error(alone: Sequence[tuple[Limit, _Least]], together: _Least) -> InfeasibleBudgetError:
    """Say which limits are out of reach, and what is in reach."""
    out = [least for _, least in alone if least.share > 1]
    first = out[0] if out else together
    how = (
        "proven, of all architectures"
        if first.exact
        else "found by coordinate descent, not proven: others may take a little less"
    )
    if out:
        said = "; ".join(
            f"the smallest {least.limit.name} is {least.value:.6g} {least.limit.unit} "
            f"({least.limit.what}), the limit is {least.limit.at_most:.6g} {least.limit.unit}"
            for least in out
        )
    else:
        limits = " and ".join(f"{limit.name} {limit.at_most:.6g}" for limit, _ in alone)
        said = (
            f"{limits} can be kept one by one, but together the smallest {first.limit.name} is "
            f"{first.value:.6g} {first.limit.unit}"
        )
    return InfeasibleBudgetError(
        f"no architecture keeps the budget: {said} ({how}); raise the limit, or search a space "
        "with smaller networks",
        smallest=first.value,
        architecture=first.architecture,
        proven=first.exact,
    )


def _choices_of(name: str, kind: BaseDistribution) -> tuple[str | int, ...]:
    if isinstance(kind, CategoricalDistribution):
        return tuple(kind.choices)  # type: ignore[arg-type]
    if isinstance(kind, IntDistribution):
        return tuple(range(kind.low, kind.high + 1, kind.step))
    raise ValueError(
        f"decision {name!r} is a {type(kind).__name__}; a search space has categorical and "
        "integer decisions only"
    )
