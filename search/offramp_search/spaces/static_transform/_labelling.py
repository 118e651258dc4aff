"""From an architecture to the stage that computes each channel of each tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from offramp_search.spaces.static_transform import _labels
from offramp_search.spaces.static_transform._exits import share_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offramp_search.spaces.static_transform._graph import Graph

__all__ = ["Labelling", "label"]


@final
@dataclass(frozen=True)
class Labelling:
    """Where everything is computed.

    Attributes:
        labels: For every node of the graph, the stage of each channel; the number of stages marks
            what is never computed.
        exits: For every stage, the node whose channels labelled no later its exit reads.
        refusal: Why this makes no valid network, or ``None``.
    """

    labels: tuple[bytes, ...]
    exits: tuple[int, ...]
    refusal: str | None


def label(graph: Graph, decisions: Mapping[int, bytes], stages: int) -> Labelling:
    """Label every channel.

    Forwards, a channel is labelled with the earliest stage at which it can be computed: a decision
    moves to the first stage that has something to read, and a sum waits for its last operand. Then
    each stage finds the last map it has, and the channels of that map's head, if exits have heads,
    are shared out equally among the stages whose exits hang there. Backwards every channel moves to
    the stage that first reads it: nothing is computed before it is of use, and what no exit needs
    is not computed.

    Args:
        graph: The base.
        decisions: For every deciding node, the labels that the architecture gives it.
        stages: Stages of the network.
    """
    nodes = graph.nodes
    labels: list[bytes] = []
    for index, node in enumerate(nodes[: graph.base_size]):
        if node.rule is None:
            labels.append(bytes(node.shape[0]))
        else:
            operands = tuple([labels[operand] for operand in node.operands])
            labels.append(node.rule.labels(operands, decisions.get(index, b"")))

    candidates = (graph.features, *reversed(graph.hosts))
    first = {index: min(labels[graph.maps.get(index, index)]) for index in candidates}
    exits: list[int] = []
    for stage in range(stages):
        found = next((index for index in candidates if first[index] <= stage), None)
        if found is None:
            reason = f"stage {stage} has no map that an exit could hang on"
            return Labelling(tuple(labels), (), reason)
        exits.append(found)

    never = bytes([stages])
    labels += [never * node.shape[0] for node in nodes[graph.base_size :]]
    hanging = {
        host: [stage for stage, found in enumerate(exits) if found == host]
        for host in graph.ways.keys() & set(exits)
    }
    for host, readers in hanging.items():
        for index in graph.ways[host]:
            rule, (operand,) = nodes[index].rule, nodes[index].operands
            assert rule is not None
            shares = share_out(nodes[index].shape[0], readers) if rule.decides else b""
            labels[index] = rule.labels((labels[operand],), shares)

    due: list[bytes | None] = [None] * len(nodes)
    for index in set(exits):
        reading = bytes(stage for stage, found in enumerate(exits) if found == index)
        due[index] = labels[index].translate(_labels.read_at(reading, stages))
    for index in range(len(nodes) - 1, -1, -1):
        node, wanted = nodes[index], due[index]
        if node.rule is None:
            labels[index] = labels[index] if wanted is None else wanted
            continue
        if wanted is None:
            labels[index] = never * len(labels[index])
            continue  # nobody reads it, so it reads nothing
        labels[index] = output = node.rule.align(wanted)
        for position, operand in enumerate(node.operands):
            asked = node.rule.demand(output, position, labels[operand], stages)
            before = due[operand]
            due[operand] = asked if before is None else _labels.earliest(before, asked)

    busy: set[int] = set()
    for index in decisions:
        busy.update(labels[index])
    idle = [stage for stage in range(stages) if stage not in busy]
    refusal = f"stage {idle[0]} computes nothing of its own" if idle else None
    return Labelling(tuple(labels), tuple(exits), refusal)
