"""What is read from, and mended in, a converted ``.tflite`` file.

The converter leaves three things that the chain of stages cannot live with. An output that is also
an input, or that is there twice, has no buffer of its own: the runtime then silently fills the
wrong one. Signature outputs are sorted as text, so ``output_10`` stands before ``output_2``, as in
https://github.com/tensorflow/tensorflow/issues/33303. And transposes stay around what it could not
move to channel-last.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp.bundle import ProgramStage, Quantization, TensorEntry
from offramp_export._litert.layout import drop_transposes
from offramp_export._litert.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "EdgeNames",
    "edge_names",
    "edge_number",
    "follow_edges",
    "join_carries",
    "keep_outputs",
    "mend",
    "read_model",
    "read_stages",
    "tensor_positions",
    "write_model",
]

# A scale given to the quantiser as a range comes back with a few float32 roundings on it.
_ROUNDING = 1e-6


@final
@dataclass(frozen=True, slots=True)
class EdgeNames:
    """Names, inside the file, of the tensors at the edges of one signature, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_model(data: bytes) -> Any:
    """The file as a tree of mutable objects.

    The quantiser puts buffers behind the FlatBuffer and leaves their places in it, which the
    smallest edit makes wrong; they are taken into the tree.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(data), 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # 0 and 1 mean that it is inside
            content = data[buffer.offset : buffer.offset + buffer.size]
            buffer.data = np.frombuffer(content, np.uint8)
            buffer.offset = buffer.size = 0
    return model


def write_model(model: Any) -> bytes:
    """The tree as a file."""
    import flatbuffers  # type: ignore[import-untyped]

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def mend(data: bytes) -> bytes:
    """Order the edges, drop idle transposes, and give every output a tensor of its own."""
    model = read_model(data)
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        signature.inputs.sort(key=edge_number)
        signature.outputs.sort(key=edge_number)
        graph.inputs = np.array([entry.tensorIndex for entry in signature.inputs], np.int32)
        graph.outputs = np.array([entry.tensorIndex for entry in signature.outputs], np.int32)
    drop_transposes(model)
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        _separate_outputs(Tree(model, graph))
        follow_edges(signature, graph)
    return write_model(model)


def follow_edges(signature: Any, graph: Any) -> None:
    """Let a signature of a mended program name the edges that its graph has now."""
    for entries, tensors in (
        (signature.inputs, graph.inputs),
        (signature.outputs, graph.outputs),
    ):
        for entry, tensor in zip(entries, tensors, strict=True):
            entry.tensorIndex = int(tensor)


def tensor_positions(data: bytes) -> dict[str, int]:
    """How many positions the map of each tensor has, by name; 0 where it is none."""
    return {
        tensor.name.decode(): int(tensor.shape[1] * tensor.shape[2]) if _is_map(tensor) else 0
        for graph in read_model(data).subgraphs
        for tensor in graph.tensors
    }


def _is_map(tensor: Any) -> bool:
    return tensor.shape is not None and len(tensor.shape) == 4


def read_stages(data: bytes, names: Sequence[str]) -> tuple[ProgramStage, ...]:
    """The edges of the named signatures, in that order."""
    model = read_model(data)
    signatures = {entry.signatureKey.decode(): entry for entry in model.signatureDefs}
    stages = []
    for name in names:
        signature = signatures[name]
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        inputs = sorted(signature.inputs, key=edge_number)
        outputs = sorted(signature.outputs, key=edge_number)
        stages.append(
            ProgramStage(
                inputs=tuple(_tensor_entry(tensors[entry.tensorIndex]) for entry in inputs),
                outputs=tuple(_tensor_entry(tensors[entry.tensorIndex]) for entry in outputs),
            )
        )
    return tuple(stages)


def edge_names(data: bytes, names: Sequence[str]) -> tuple[EdgeNames, ...]:
    """The edge tensors of the named signatures, in that order."""
    model = read_model(data)
    signatures = {entry.signatureKey.decode(): entry for entry in model.signatureDefs}
    found = []
    for name in names:
        signature = signatures[name]
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        inputs, outputs = (
            tuple(
                tensors[entry.tensorIndex].name.decode() for entry in sorted(side, key=edge_number)
            )
            for side in (signature.inputs, signature.outputs)
        )
        found.append(EdgeNames(inputs, outputs))
    return tuple(found)


def join_carries(data: bytes, names: Sequence[str]) -> bytes:
    """Copy the stored scale of a carry to the input that reads it, where nothing stands against it.

    That is an input that no operator reads (the quantiser goes by operators and leaves it float32),
    and one whose scale differs by a rounding error.
    """
    model = read_model(data)
    signatures = {entry.signatureKey.decode(): entry for entry in model.signatureDefs}
    changed = False
    for before, after in pairwise(signatures[name] for name in names):
        graph = model.subgraphs[after.subgraphIndex]
        read = {int(tensor) for operator in graph.operators for tensor in operator.inputs}
        produced = sorted(before.outputs, key=edge_number)[1:]
        for source, entry in zip(produced, sorted(after.inputs, key=edge_number), strict=True):
            origin = model.subgraphs[before.subgraphIndex].tensors[source.tensorIndex]
            tensor = graph.tensors[entry.tensorIndex]
            if entry.tensorIndex not in read:
                tensor.type, tensor.quantization = origin.type, origin.quantization
                changed = True
            elif _nearly_equal(origin, tensor):
                # Poolings and copies demand the very scale of their input, so all tensors that
                # have it change together.
                for other in [other for other in graph.tensors if _equal(other, tensor)]:
                    other.quantization = copy.deepcopy(origin.quantization)
                changed = True
    return write_model(model) if changed else data


def keep_outputs(program: bytes, quantized: bytes) -> bytes:
    """Let signatures name the outputs that their graphs have.

    Where an output is also read by an operator that demands another scale, a concatenation for
    instance, the quantiser puts a requantisation before the output of the graph and leaves the
    signature at the tensor before it, which ends the process that loads the program.

    Args:
        program: Before it was quantised.
        quantized: After.
    """
    before, after = read_model(program), read_model(quantized)
    changed = False
    signatures = {entry.signatureKey: entry for entry in after.signatureDefs}
    for old in before.signatureDefs:
        new = signatures[old.signatureKey]
        were = [int(tensor) for tensor in before.subgraphs[old.subgraphIndex].outputs]
        are = [int(tensor) for tensor in after.subgraphs[new.subgraphIndex].outputs]
        place = {entry.name: were.index(int(entry.tensorIndex)) for entry in old.outputs}
        for entry in new.outputs:
            if int(entry.tensorIndex) not in are:
                entry.tensorIndex = are[place[entry.name]]
                changed = True
    return write_model(after) if changed else quantized


def _scale(tensor: Any) -> tuple[float, int] | None:
    """Scale and zero point of a tensor that has one of each."""
    stored = tensor.quantization
    if stored is None or stored.scale is None or len(stored.scale) != 1:
        return None
    return float(stored.scale[0]), int(stored.zeroPoint[0])


def _equal(one: Any, other: Any) -> bool:
    return one.type == other.type and _scale(one) == _scale(other)


def _nearly_equal(one: Any, other: Any) -> bool:
    ours, theirs = _scale(one), _scale(other)
    if one.type != other.type or ours is None or theirs is None or ours[1] != theirs[1]:
        return False
    return 0 < abs(ours[0] - theirs[0]) <= _ROUNDING * ours[0]


def edge_number(entry: Any) -> int:
    match = re.search(rb"(\d+)$", entry.name)
    assert match is not None, f"unexpected edge name {entry.name!r}"
    return int(match[1])


def _tensor_entry(tensor: Any) -> TensorEntry:
    from ai_edge_litert import schema_py_generated as schema

    dtypes: dict[int, Any] = {
        schema.TensorType.FLOAT32: "float32",
        schema.TensorType.INT8: "int8",
        schema.TensorType.INT16: "int16",
        schema.TensorType.UINT8: "uint8",
        schema.TensorType.FLOAT16: "float16",
    }
    stored = tensor.quantization
    quantization = None
    if stored is not None and stored.scale is not None and len(stored.scale):
        # Written as the shortest decimal that names the very same float32.
        quantization = Quantization(
            scale=float(str(np.float32(stored.scale[0]))), zero_point=int(stored.zeroPoint[0])
        )
    return TensorEntry(
        shape=tuple(int(size) for size in tensor.shape),
        dtype=dtypes[tensor.type],
        quantization=quantization,
    )


def _separate_outputs(tree: Tree) -> None:
    """Give an output that is also an input, or there twice, a copy: a reshape to its own shape."""
    from ai_edge_litert import schema_py_generated as schema

    taken = {int(tensor) for tensor in tree.graph.inputs}
    for position, tensor in enumerate(tree.graph.outputs.tolist()):
        made = tensor
        if tensor in taken:
            shape = np.array(tree.graph.tensors[tensor].shape)
            made = tree.new_like(tensor, shape)
            operator = tree.add("RESHAPE", [tensor, tree.constant(shape)], made)
            operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
            operator.builtinOptions = schema.ReshapeOptionsT()
            operator.builtinOptions.newShape = shape.astype(np.int32)
            tree.graph.outputs[position] = made
        taken.add(made)
