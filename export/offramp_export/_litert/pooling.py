"""Averages with a scale of their own.

In int8 an ``AVERAGE_POOL_2D`` must answer in the scale of its input. Averages lie closer together
than what they are made of, so an exit that reads a grid of them would see a few of the 256 steps,
and XNNPACK leaves that operator to a plain kernel besides. A depthwise convolution with equal
weights computes the same, in any scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from offramp_export._litert.flatbuffer import read_model, write_model
from offramp_export._litert.tree import Tree, opcodes

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["average_by_convolution"]


def average_by_convolution(program: bytes, names: Collection[str]) -> bytes:
    """Replace the average poolings of some signatures whose windows lie side by side.

    Args:
        program: In float32.
        names: Of the signatures.
    """
    model = read_model(program)
    name_of = opcodes(model)
    changed = False
    for signature in model.signatureDefs:
        if signature.signatureKey.decode() not in names:
            continue
        tree = Tree(model, model.subgraphs[signature.subgraphIndex])
        for operator in tree.graph.operators:
            if name_of(operator) == "AVERAGE_POOL_2D" and _is_plain(tree, operator):
                _replace(tree, operator)
                changed = True
    return write_model(model) if changed else program


def _is_plain(tree: Tree, operator: Any) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    options = operator.builtinOptions
    _, height, width, _ = tree.graph.tensors[int(operator.inputs[0])].shape
    window = options.filterHeight, options.filterWidth
    return bool(
        window == (options.strideH, options.strideW)
        and (height % window[0], width % window[1]) == (0, 0)
        and options.fusedActivationFunction == schema.ActivationFunctionType.NONE
    )


def _replace(tree: Tree, operator: Any) -> None:
    from ai_edge_litert import schema_py_generated as schema

    old = operator.builtinOptions
    options = schema.DepthwiseConv2DOptionsT()
    options.padding = schema.Padding.VALID
    options.strideH, options.strideW = old.strideH, old.strideW
    options.dilationHFactor = options.dilationWFactor = options.depthMultiplier = 1
    options.fusedActivationFunction = schema.ActivationFunctionType.NONE
    source, made = int(operator.inputs[0]), int(operator.outputs[0])
    channels = int(tree.graph.tensors[source].shape[3])
    shape = (1, old.filterHeight, old.filterWidth, channels)
    window = np.full(shape, 1 / (old.filterHeight * old.filterWidth), np.float32)
    # Ranges are kept by name, so names must tell the tensors of all stages apart.
    name = bytes(tree.graph.tensors[made].name)
    inputs = [
        source,
        tree.constant(window, name + b"/window"),
        tree.constant(np.zeros(channels, np.float32), name + b"/nothing"),
    ]
    operator.opcodeIndex = tree.opcode("DEPTHWISE_CONV_2D")
    operator.inputs = np.array(inputs, np.int32)
    operator.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
    operator.builtinOptions = options
