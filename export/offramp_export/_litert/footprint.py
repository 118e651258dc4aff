"""What each signature of a ``.tflite`` file takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from offramp.errors import ExportError
from offramp_export._litert.delegation import delegations
from offramp_export._litert.flatbuffer import read_model
from offramp_export._litert.tree import Tree
from offramp_export.footprint import Operator, StageFootprint, peak_bytes, weigh

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["read_footprint"]


def read_footprint(data: bytes, names: Sequence[str]) -> tuple[StageFootprint, ...]:
    """Read the named signatures, in that order.

    Args:
        data: The file.
        names: Of the signatures.
    """
    model = read_model(data)
    places = {entry.signatureKey.decode(): entry.subgraphIndex for entry in model.signatureDefs}
    graphs = [model.subgraphs[places[name]] for name in names]
    sizes = {
        place: len(buffer.data)
        for place, buffer in enumerate(model.buffers)
        if buffer.data is not None
    }
    used = [
        {graph.tensors[tensor].buffer for tensor in _tensors(graph)} & sizes.keys()
        for graph in graphs
    ]
    return tuple(
        StageFootprint(
            weight_bytes=weight_bytes,
            shared_bytes=shared_bytes,
            peak_activation_bytes=_peak(Tree(model, graph)),
            delegation=delegation,
        )
        for graph, (weight_bytes, shared_bytes), delegation in zip(
            graphs, weigh(used, sizes), delegations(data, names), strict=True
        )
    )


def _tensors(graph: Any) -> set[int]:
    return {
        int(tensor)
        for operator in graph.operators
        for tensor in (*operator.inputs, *operator.outputs)
        if tensor >= 0
    }


def _peak(tree: Tree) -> int:
    graph = tree.graph
    # What is computed from constants alone, such as weights that are unpacked, is computed once.
    constant = {tensor for tensor in _tensors(graph) if tree.is_constant(tensor)}
    for operator in graph.operators:
        if all(tensor < 0 or int(tensor) in constant for tensor in operator.inputs):
            constant |= {int(tensor) for tensor in operator.outputs}
    edges = {int(tensor) for tensor in (*graph.inputs, *graph.outputs)}
    sizes = {
        tensor: _size(graph.tensors[tensor]) for tensor in (_tensors(graph) - constant) | edges
    }
    operators = [
        Operator(tuple(map(int, operator.inputs)), tuple(map(int, operator.outputs)))
        for operator in graph.operators
    ]
    return peak_bytes(operators, sizes, held=edges)


def _size(tensor: Any) -> int:
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.TensorType
    item_bytes = {kinds.FLOAT32: 4, kinds.INT32: 4, kinds.UINT32: 4, kinds.INT64: 8}
    item_bytes |= {
        kinds.FLOAT16: 2,
        kinds.BFLOAT16: 2,
        kinds.INT16: 2,
        kinds.INT8: 1,
        kinds.UINT8: 1,
        kinds.BOOL: 1,
    }
    if tensor.type not in item_bytes:
        raise ExportError(
            f"LiteRT: tensor {tensor.name.decode()} has element type {tensor.type}, whose size is "
            "not known here; report this with the network"
        )
    return math.prod(map(int, tensor.shape)) * item_bytes[tensor.type]
