"""The image of a LiteRT program, kept exact; see ``offramp_export._exact_image``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from offramp_export._exact_image import split_normalization
from offramp_export._litert.flatbuffer import read_model, write_model
from offramp_export._litert.tree import opcodes, signature_trees

if TYPE_CHECKING:
    from offramp_export._exact_image import ExactImage
    from offramp_export._litert.tree import Tree

__all__ = ["keep_image_exact"]


def keep_image_exact(program: bytes, name: str) -> tuple[bytes, dict[str, tuple[float, float]]]:
    """Rewrite the normalisation at the start of a signature, if a convolution alone reads it.

    Args:
        program: In float32, normalising as ``quantizable_preprocess`` does.
        name: Of the signature.

    Returns:
        The program, and the ranges that its new tensors must have, by name; the same program and
        none where another operator reads the normalised image.
    """
    model = read_model(program)
    name_of = opcodes(model)
    ((_, tree),) = signature_trees(model, [name])
    path = _path(tree, name_of)
    if path is None:
        return program, {}
    first, *pads, reader = path
    scale, weights = tree.floats(int(first.inputs[1])), tree.floats(int(reader.inputs[1]))
    exact = split_normalization(scale.reshape(-1), tree.floats(int(first.inputs[2])), weights)
    if exact is None:
        return program, {}
    _rewrite(tree, first, reader, exact)
    changed = [tree.graph.tensors[int(each.outputs[0])] for each in (first, *pads)]
    for tensor in changed:
        tensor.shape = np.array([*tensor.shape[:3], 4], np.int32)
        tensor.shapeSignature = None
    return write_model(model), {tensor.name.decode(): exact.bounds for tensor in changed}


def _path(tree: Tree, name_of: Any) -> list[Any] | None:
    """The normalisation, a padding if there is one, and the convolution."""
    found: list[Any] = []
    (tensor,) = map(int, tree.graph.inputs)
    for allowed in ({"DEPTHWISE_CONV_2D"}, {"PAD", "CONV_2D"}, {"CONV_2D"}):
        readers = tree.readers(tensor)
        if len(readers) != 1 or tensor in map(int, tree.graph.outputs):
            return None
        (reader,) = readers
        if name_of(reader) not in allowed or int(reader.inputs[0]) != tensor:
            return None
        found.append(reader)
        if name_of(reader) == "CONV_2D":
            break
        if name_of(reader) == "PAD" and (tree.integers(int(reader.inputs[1])) or [1])[-2:] != [
            0,
            0,
        ]:
            return None  # it adds colours
        tensor = int(reader.outputs[0])
    first, reader = found[0], found[-1]
    _, *window, channels = tree.graph.tensors[int(first.inputs[1])].shape
    plain = (
        window == [1, 1]
        and channels == tree.graph.tensors[int(first.inputs[0])].shape[3]
        and first.builtinOptions.fusedActivationFunction == 0
    )
    constants = (first.inputs[1], first.inputs[2], reader.inputs[1])
    return found if plain and all(tree.is_constant(int(each)) for each in constants) else None


def _rewrite(tree: Tree, first: Any, reader: Any, exact: ExactImage) -> None:
    from ai_edge_litert import schema_py_generated as schema

    def constant(values: Any, old: int) -> int:
        return tree.constant(values, tree.graph.tensors[old].name + b"/exact")

    options = schema.Conv2DOptionsT()
    options.padding = schema.Padding.VALID
    options.strideH = options.strideW = 1
    options.dilationHFactor = options.dilationWFactor = 1
    options.fusedActivationFunction = schema.ActivationFunctionType.NONE
    image, weights, bias = map(int, first.inputs)
    first.opcodeIndex = tree.opcode("CONV_2D")
    first.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    first.builtinOptions = options
    four = exact.weights.reshape(4, 1, 1, 3)
    first.inputs = np.array([image, constant(four, weights), constant(exact.bias, bias)], np.int32)
    inputs = [int(each) for each in reader.inputs]
    inputs[1] = constant(exact.reader_weights, inputs[1])
    reader.inputs = np.array(inputs, np.int32)
