"""Units: the layers whose output channels are cut together, and the cuts there are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise
from typing import TYPE_CHECKING, final

from offramp_search.spaces.static_transform._orders import spread
from offramp_search.spaces.static_transform._rules import SumRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp_search.spaces.static_transform._graph import Graph

__all__ = ["Unit", "find_units"]


@final
@dataclass(frozen=True)
class Unit:
    """Layers that write into one residual stream, or one layer that writes alone.

    Attributes:
        name: Path of its first layer in the base.
        nodes: Its convolutions and linear layers.
        channels: Output channels of each of them.
        labels: Choice -> label of each channel.
    """

    name: str
    nodes: tuple[int, ...]
    channels: int
    labels: dict[str, bytes]


def find_units(
    graph: Graph, *, groups: int, stages: int, tie: bool, vector_width: int = 1
) -> tuple[Unit, ...]:
    """Find the units of a base, in the order of their first layers.

    A sum or product ties what it reads; whatever keeps its channels passes the tie on. Where the
    channels of a sum's operands do not correspond one to one (concatenations, padded shortcuts)
    nothing is tied and the later label wins.

    Args:
        graph: The base.
        groups: The largest number of parts that a unit is cut into.
        stages: Stages to distribute the parts over.
        vector_width: Parts hold multiples of it, where the channels of a unit divide.
        tie: Whether all layers that write alone into maps of one shape are one unit, too; and all
            residual streams of one shape.
    """
    parent: list[int] = list(range(len(graph.nodes)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    tied = [False] * len(graph.nodes)  # whether the channels are those of a layer, one to one
    for index, node in enumerate(graph.nodes):
        if node.rule is None:
            continue
        tied[index] = node.rule.decides
        if node.rule.keeps:
            sources = [operand for operand in node.operands if tied[operand]]
            for source in sources:
                parent[root(source)] = root(index)
            tied[index] = bool(sources) and (
                isinstance(node.rule, SumRule) or len(sources) == len(node.operands)
            )
    layers: dict[int, list[int]] = {}
    grains: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        if node.rule is None:
            continue
        if node.rule.decides and index < graph.base_size:  # and is no head's
            layers.setdefault(root(index), []).append(index)
        if node.operands and tied[node.operands[0]]:
            top = root(node.operands[0])
            grains[top] = math.lcm(grains.get(top, 1), node.rule.grain)
    if tie:
        layers, grains = _tie_by_shape(graph, layers, grains)
    units, names = [], set()
    for top, members in layers.items():
        first = graph.nodes[members[0]]
        name = first.path or first.name
        name = name if name not in names else first.name
        names.add(name)
        channels = first.shape[0]
        grain = math.lcm(grains.get(top, 1), math.gcd(channels, vector_width))
        labels = _cuts(channels, grain, groups, stages)
        if grains.get(top, 1) == 1:
            labels = _spread(labels, spread(graph.fates[members[0]]))
        units.append(Unit(name, tuple(members), channels, labels))
    return tuple(units)


def _tie_by_shape(
    graph: Graph, layers: dict[int, list[int]], grains: dict[int, int]
) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Join units whose layers write maps of one shape, streams with streams."""
    tied: dict[int, list[int]] = {}
    tied_grains: dict[int, int] = {}
    tops: dict[tuple[object, ...], int] = {}
    for top, members in layers.items():
        key = (graph.nodes[members[0]].shape, len(members) > 1)
        first = tops.setdefault(key, top)
        tied.setdefault(first, []).extend(members)
        tied_grains[first] = math.lcm(tied_grains.get(first, 1), grains.get(top, 1))
    return tied, tied_grains


def _cuts(channels: int, grain: int, groups: int, stages: int) -> dict[str, bytes]:
    """All ways to distribute equal parts over the stages, first stage fullest first."""
    grain = grain if channels % grain == 0 else channels
    parts = min(groups, channels // grain)
    bounds = [round(i * (channels // grain) / parts) * grain for i in range(parts + 1)]
    cuts = {}
    for inner in sorted(combinations_with_replacement(range(parts + 1), stages - 1), reverse=True):
        ends = [0, *inner, parts]
        shares = [after - before for before, after in pairwise(ends)]
        labels = b"".join(
            bytes([stage]) * (bounds[after] - bounds[before])
            for stage, (before, after) in enumerate(pairwise(ends))
        )
        cuts["+".join(map(str, shares))] = labels
    return cuts


def _spread(cuts: dict[str, bytes], order: Sequence[int]) -> dict[str, bytes]:
    """The same cuts with the channels in another order."""
    place = {channel: at for at, channel in enumerate(order)}
    return {
        choice: bytes(labels[place[channel]] for channel in range(len(labels)))
        for choice, labels in cuts.items()
    }
