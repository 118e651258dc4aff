"""What each stage of an architecture costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from offramp_search.spaces.static_transform import _labels

if TYPE_CHECKING:
    from offramp_search.spaces.static_transform._graph import Graph
    from offramp_search.spaces.static_transform._labelling import Labelling

__all__ = ["per_stage"]


def per_stage(
    graph: Graph, labelling: Labelling, stages: int, what: Literal["multiply_adds", "parameters"]
) -> tuple[int, ...]:
    """Multiply-adds or parameters that each stage adds, exits included."""
    sums = [0] * stages
    for index, node in enumerate(graph.nodes):
        if node.rule is None:
            continue
        count = getattr(node.rule, what)
        outputs = _labels.counts(labelling.labels[index], stages)
        inputs = _labels.counts(labelling.labels[node.operands[0]], stages)
        read = 0
        for stage in range(stages):
            read += inputs[stage]
            if outputs[stage]:
                sums[stage] += count(outputs[stage], read)
    count = getattr(graph.classifier, what)
    for stage, index in enumerate(labelling.exits):
        features = sum(_labels.counts(labelling.labels[index], stages)[: stage + 1])
        sums[stage] += count(graph.classes, features)
    return tuple(sums)
