"""The sampler of each method, made for a space, a budget and a number of trials."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, final

import numpy as np
from optuna.distributions import CategoricalDistribution

from offramp_search.pipeline._supernet import random_architecture
from offramp_search.samplers import (
    DDPNASSampler,
    EvolutionSampler,
    PNASSampler,
    RandomSampler,
    ReinforceSampler,
    StartingSampler,
    nsga2_sampler,
    tpe_sampler,
)
from offramp_search.spaces import ABSENT, Space

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

    from offramp_search.budget import Budget
    from offramp_search.devices import LatencyTable
    from offramp_search.spaces import Architecture

__all__ = ["Limits", "Method", "make_sampler"]

Method = Literal["s2dnas", "pnas", "ddpnas", "evolution", "tpe", "nsga2", "random"]

_BEAM = 8
_ROUNDS = 3
_DRAWS = 200
_INVALID = 1e9


def make_sampler(
    method: Method,
    seed: int,
    space: Space,
    budget: Budget,
    table: LatencyTable,
    *,
    trials: int,
    landmarks: bool = True,
) -> BaseSampler:
    """The sampler of a method.

    PNAS frees as many decisions a level as it takes to have freed all within the trials; DDPNAS
    prunes one choice at a time if three fair rounds before each fit into them, and half of the
    choices otherwise.

    Args:
        method: One that ``offramp methods`` lists.
        seed: Not negative.
        space: The search space.
        budget: What is limited.
        table: Where latencies are looked up.
        trials: Architectures that will be evaluated.
        landmarks: Whether the search begins with the space's landmarks.
    """
    limits = Limits(space, budget, table)
    first = _different(space) if landmarks else []
    sampler = _make(method, seed, space, limits, after=len(first), trials=trials)
    return StartingSampler(sampler, first) if first else sampler


def _different(space: Space) -> list[Architecture]:
    """The landmarks of a space that are networks, each once."""
    found: dict[Hashable, Architecture] = {}
    for one in space.landmarks():
        if space.refusal(one) is None:
            found.setdefault(space.canonical(one), one)
    return list(found.values())


def _make(
    method: Method, seed: int, space: Space, limits: Limits, *, after: int, trials: int
) -> BaseSampler:
    decisions = space.decisions()
    trials = max(1, trials - after)
    if method == "s2dnas":
        return ReinforceSampler(seed)
    if method == "evolution":
        return EvolutionSampler(seed)
    if method == "tpe":
        return tpe_sampler(seed)
    if method == "nsga2":
        return nsga2_sampler(seed)
    if method == "random":
        return RandomSampler(seed)
    if method == "pnas":
        most_first = max(4, trials // 4)
        levels = max(1, (trials - most_first) // _BEAM)
        units = space.units()
        # The decisions of a unit together are many already.
        first = 2 if max(units) == 1 else 1
        return PNASSampler(
            seed,
            decisions,
            neutral=limits.neutral(seed),
            beam=_BEAM,
            first=first,
            most_first=most_first,
            step=max(1, math.ceil((len(units) - first) / levels)),
            allowed=limits.allow,
            # Where only equal architectures are one network, nothing need be asked of them.
            canonical=None if type(space).canonical is Space.canonical else limits.canonical,
            cost=limits.multiply_adds,
            units=units,
            absent=ABSENT,
        )
    one_by_one = DDPNASSampler.length(decisions, rounds=_ROUNDS) < trials
    share = 0.0 if one_by_one else 0.5
    round_trials = max(1, DDPNASSampler.length(decisions, rounds=1, removed_share=share))
    return DDPNASSampler(
        seed,
        decisions,
        rounds=max(1, (trials - 1) // round_trials),
        removed_share=share,
        allowed=limits.allow,
        cost=limits.share,
        limit=1.0,
        after=after,
    )


@final
class Limits:
    """What a budget allows, as far as the measured blocks tell."""

    def __init__(self, space: Space, budget: Budget, table: LatencyTable) -> None:
        self._space = space
        self._budget = budget
        self._table = table

    def allow(self, architecture: Architecture) -> bool:
        """Whether an architecture is valid and can keep the budget."""
        return self.share(architecture) <= 1

    def share(self, architecture: Architecture) -> float:
        """The largest share of a limit that it takes at least; huge if it is no valid network."""
        share, _ = self.tightest(architecture)
        return share

    def tightest(
        self, architecture: Architecture, stage_ms: Sequence[float] | None = None
    ) -> tuple[float, float]:
        """Of the limit that it takes most of, that share, and what it takes in the limit's unit.

        Args:
            architecture: Its decisions.
            stage_ms: What each stage takes; by default what the latency table says at least.
        """
        space, budget = self._space, self._budget
        if space.refusal(architecture) is not None:
            return _INVALID, math.inf
        if stage_ms is None:
            stage_ms = self._table.lower_bounds_ms(space.blocks(architecture))
        size = self._table.size_bytes(space.parameters(architecture))
        taken = [(limit.value(stage_ms, size), limit.at_most) for limit in budget.limits()]
        return max((value / at_most, float(value)) for value, at_most in taken)

    def canonical(self, architecture: Architecture) -> Hashable:
        """Equal for architectures that are the same network."""
        return self._space.canonical(architecture)

    def multiply_adds(self, architecture: Architecture) -> float:
        """Of all stages; of what is no valid network, without end."""
        if self._space.refusal(architecture) is not None:
            return math.inf
        return sum(self._space.cost(architecture))

    def neutral(self, seed: int) -> Architecture:
        """The space's own, the even split, or the first random architecture that keeps the budget.

        Its blocks are measured if need be, so that a search that goes on later, when more is
        known, finds the same.
        """
        even = self._space.neutral() or {
            name: _even(kind) for name, kind in self._space.decisions().items()
        }
        rng = np.random.default_rng([seed, 2])
        for draw in range(_DRAWS):
            architecture = even if draw == 0 else random_architecture(self._space, rng)
            if self.allow(architecture):
                stages = self._space.blocks(architecture)
                self._table.require([block for stage in stages for block in stage])
                if self.allow(architecture):
                    return architecture
        return even  # the search will say what the smallest latency is


def _even(kind: BaseDistribution) -> str | int:
    """The choice that gives all stages the most equal shares."""
    if not isinstance(kind, CategoricalDistribution):
        raise ValueError(f"expected decisions with named choices, got {kind}")
    names = [str(choice) for choice in kind.choices]

    def unevenness(at: int) -> float:
        shares = [float(share) for share in names[at].replace("-", "+").split("+")]
        return float(np.var(shares))

    return names[min(range(len(names)), key=unevenness)]
