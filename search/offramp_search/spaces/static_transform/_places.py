"""Where an early exit may be made to hang, whatever is cut and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp_search.spaces.static_transform import _labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offramp_search.spaces.static_transform._graph import Graph

__all__ = ["END", "Place", "find_places", "hold_back", "whole_cost"]

END = "end"
"""The choice of an exit that may hang as late as its stage has maps."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """A map that everything after it is computed from.

    Attributes:
        name: Of the node that computes it.
        node: Its index.
        share: Of the base's multiply-adds, what is spent by then.
    """

    name: str
    node: int
    share: float


def find_places(graph: Graph, most: int) -> tuple[Place, ...]:
    """Places that lie as evenly as can be over the base's multiply-adds, first to last.

    Inside a residual block there is none: two maps would have to be handed on.

    Args:
        graph: The base.
        most: How many, at most.
    """
    nodes = range(1, graph.base_size)
    # The last reader of anything computed so far: a map that all others hand on through is it.
    reach = [
        max((reader for reader, _ in readers if reader < graph.base_size), default=0)
        for readers in graph.readers
    ]
    hosts = set(graph.maps.values())
    spent = np.cumsum([0, *(whole_cost(graph, index) for index in nodes)])
    if not spent[-1]:
        return ()
    found = [
        Place(graph.nodes[index].name, index, float(spent[index] / spent[-1]))
        for index in nodes
        if index in hosts and spent[index] < spent[-1]
        if all(reach[before] <= index for before in range(index))
    ]
    chosen: dict[int, Place] = {}
    for number in range(min(most, len(found))):
        share = (number + 1) / (most + 1)
        left = [place for place in found if place.node not in chosen]
        nearest = min(left, key=lambda place: abs(place.share - share))
        chosen[nearest.node] = nearest
    return tuple(chosen[node] for node in sorted(chosen))


def hold_back(decided: Mapping[int, bytes], ends: Sequence[Place | None]) -> dict[int, bytes]:
    """Labels that let no stage compute anything after the place where its exit is to hang.

    Args:
        decided: For every deciding node, the stage of each channel.
        ends: For each stage but the last the place, ``None`` where there is none.
    """
    held = {}
    for index, labels in decided.items():
        passed = [
            stage + 1 for stage, end in enumerate(ends) if end is not None and index > end.node
        ]
        held[index] = labels.translate(_labels.not_before(max(passed, default=0)))
    return held


def whole_cost(graph: Graph, index: int) -> int:
    """Multiply-adds of a node of the base."""
    node = graph.nodes[index]
    if node.rule is None or not node.operands:
        return 0
    return node.rule.multiply_adds(node.shape[0], graph.nodes[node.operands[0]].shape[0])
