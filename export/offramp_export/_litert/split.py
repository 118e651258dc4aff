"""One signature that computes many things apart, made into many signatures.

The converter takes about a second per signature whatever is in it, and far less per operator;
hundreds of small modules are therefore converted as one and taken apart in the file.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp_export._litert.flatbuffer import edge_number, read_model, write_model

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["split_signature"]


def split_signature(data: bytes, parts: Mapping[str, tuple[int, int]]) -> bytes:
    """Take the only signature of a program apart.

    Args:
        data: A program with one signature whose parts share no activations.
        parts: Name of each new signature -> how many of the inputs and of the outputs are its own,
            in the order of the old signature.
    """
    model = read_model(data)
    (signature,) = model.signatureDefs
    whole = model.subgraphs[signature.subgraphIndex]
    inputs = [entry.tensorIndex for entry in sorted(signature.inputs, key=edge_number)]
    outputs = [entry.tensorIndex for entry in sorted(signature.outputs, key=edge_number)]
    makers = {int(made): operator for operator in whole.operators for made in operator.outputs}
    model.subgraphs, model.signatureDefs = [], []
    first_input = first_output = 0
    for name, (input_count, output_count) in parts.items():
        graph = _part(
            whole,
            makers,
            inputs[first_input : first_input + input_count],
            outputs[first_output : first_output + output_count],
        )
        graph.name = name.encode()
        for tensor in graph.tensors:
            # A constant of two parts is in both; the quantiser wants names that are unique.
            tensor.name = graph.name + b"/" + tensor.name
        model.subgraphs.append(graph)
        model.signatureDefs.append(_signature(name, graph, len(model.subgraphs) - 1))
        first_input += input_count
        first_output += output_count
    return write_model(model)


def _part(whole: Any, makers: Mapping[int, Any], inputs: list[int], outputs: list[int]) -> Any:
    """The piece of a graph that leads to some of its outputs, with tensors of its own."""
    needed: set[int] = set(inputs)
    operators: set[int] = set()
    open_tensors = list(outputs)
    while open_tensors:
        tensor = int(open_tensors.pop())
        if tensor in needed or tensor < 0:
            continue
        needed.add(tensor)
        maker = makers.get(tensor)
        if maker is not None:
            operators.add(id(maker))
            open_tensors += [*maker.inputs.tolist(), *maker.outputs.tolist()]
    order = sorted(needed)
    places = {tensor: place for place, tensor in enumerate(order)} | {-1: -1}

    def renumber(tensors: Any) -> Any:
        return np.array([places[int(tensor)] for tensor in tensors], np.int32)

    graph = copy.copy(whole)
    graph.tensors = [copy.copy(whole.tensors[tensor]) for tensor in order]
    graph.inputs, graph.outputs = renumber(inputs), renumber(outputs)
    graph.operators = []
    for operator in whole.operators:
        if id(operator) in operators:
            moved = copy.copy(operator)
            moved.inputs, moved.outputs = renumber(operator.inputs), renumber(operator.outputs)
            graph.operators.append(moved)
    return graph


def _signature(name: str, graph: Any, index: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    signature = schema.SignatureDefT()
    signature.signatureKey = name.encode()
    signature.subgraphIndex = index
    signature.inputs = [_entry(f"args_{k}", tensor) for k, tensor in enumerate(graph.inputs)]
    signature.outputs = [_entry(f"output_{k}", tensor) for k, tensor in enumerate(graph.outputs)]
    return signature


def _entry(name: str, tensor: Any) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), int(tensor)
    return entry
