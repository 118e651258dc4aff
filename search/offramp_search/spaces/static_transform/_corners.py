"""Plain architectures of a static transform: thin stages, and exits at different depths."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from offramp_search.spaces.static_transform._places import whole_cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp_search.spaces.static_transform._graph import Graph
    from offramp_search.spaces.static_transform._places import Place
    from offramp_search.spaces.static_transform._units import Unit

__all__ = ["check_shares", "cut_alike", "narrow", "nearest_places", "whole_units"]


def check_shares(shares: Sequence[float], stages: int) -> None:
    """Refuse what are not rising parts, one for each stage but the last."""
    edges = [0.0, *shares, 1.0]
    if len(shares) != stages - 1 or not all(a < b for a, b in pairwise(edges)):
        raise ValueError(
            f"shares must be {stages - 1} rising numbers between 0 and 1, got {tuple(shares)}"
        )


def cut_alike(units: Sequence[Unit], shares: Sequence[float]) -> dict[str, str]:
    """For every unit the choice whose cuts are nearest to the shares."""
    return {
        unit.name: min(unit.labels, key=lambda c, u=unit: _distance(u.labels[c], shares))  # type: ignore[misc]
        for unit in units
    }


def narrow(units: Sequence[Unit], share: float) -> dict[str, str]:
    """For every unit a choice whose first stage is nearest to the share.

    No other stage may be idle. Where too little is left for all of them, units differ in which
    stage has it.
    """
    chosen = {}
    for index, unit in enumerate(units):
        parts = {name: labels.count(0) / len(labels) for name, labels in unit.labels.items()}
        nearest = min(parts.values(), key=lambda part: abs(part - share))
        alike = [name for name, part in parts.items() if part == nearest]
        most = max(len(set(unit.labels[name])) for name in alike)
        busiest = [name for name in alike if len(set(unit.labels[name])) == most]
        chosen[unit.name] = busiest[index % len(busiest)]
    return chosen


def whole_units(units: Sequence[Unit], graph: Graph, shares: Sequence[float]) -> dict[str, str]:
    """Every unit whole in one stage, so that what is spent by its end is nearest to the shares.

    Raises:
        ValueError: There are fewer units than stages.
    """
    spent = np.cumsum([sum(whole_cost(graph, node) for node in unit.nodes) for unit in units])
    stages = len(shares) + 1
    if len(units) < stages:
        raise ValueError(f"{len(units)} units cannot lie whole in {stages} stages")
    ends = [0]
    for stage, share in enumerate(shares, start=1):
        # Every stage gets a unit at least.
        possible = range(ends[-1] + 1, len(units) - (stages - stage) + 1)
        ends.append(min(possible, key=lambda end, s=share: abs(spent[end - 1] / spent[-1] - s)))  # type: ignore[misc]
    chosen = {}
    for index, unit in enumerate(units):
        stage = sum(1 for end in ends[1:] if index >= end)
        chosen[unit.name] = next(
            choice for choice, labels in unit.labels.items() if set(labels) == {stage}
        )
    return chosen


def nearest_places(places: Sequence[Place], shares: Sequence[float]) -> tuple[str, ...]:
    """For each share another place, in their order, where about so much is spent.

    Raises:
        ValueError: There are fewer places than shares.
    """
    if len(places) < len(shares):
        raise ValueError(f"{len(shares)} exits need as many places, there are {len(places)}")
    chosen: list[int] = []
    for left, share in zip(range(len(shares) - 1, -1, -1), shares, strict=True):
        possible = range(chosen[-1] + 1 if chosen else 0, len(places) - left)
        chosen.append(min(possible, key=lambda at, s=share: abs(places[at].share - s)))  # type: ignore[misc]
    return tuple(places[at].name for at in chosen)


def _distance(labels: bytes, shares: Sequence[float]) -> float:
    """How far the cuts of a unit are from the shares asked for; a missing stage is far."""
    ends = [sum(1 for label in labels if label <= stage) for stage in range(len(shares))]
    off = sum(abs(end / len(labels) - share) for end, share in zip(ends, shares, strict=True))
    return off + (len(shares) + 1 - len(set(labels)))
