"""Averages with a scale of their own.

In int8 an ``AVERAGE_POOL_2D`` must answer in the scale of its input. Averages lie closer together
than what they are made of, so an exit that reads a grid of them would see a few of the 256 steps,
and XNNPACK leaves that operator to a plain kernel besides. A depthwise convolution with equal
weights computes the same, in any scale; a window that XNNPACK would go over in several passes is
averaged in steps, which is half the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from offramp_export._litert.flatbuffer import read_model, write_model
from offramp_export._litert.tree import opcodes, signature_trees

if TYPE_CHECKING:
    from collections.abc import Collection

    from offramp_export._litert.tree import Tree

__all__ = ["average_by_convolution", "steps"]

_FAST_TAPS = 25  # of a depthwise kernel of XNNPACK that reads its window in one pass


def average_by_convolution(program: bytes, names: Collection[str]) -> bytes:
    """Replace the average poolings of some signatures whose windows lie side by side.

    Args:
        program: In float32.
        names: Of the signatures.
    """
    model = read_model(program)
    name_of = opcodes(model)
    changed = False
    for _, tree in signature_trees(model, names):
        for operator in list(tree.graph.operators):
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
    old = operator.builtinOptions
    source, made = int(operator.inputs[0]), int(operator.outputs[0])
    shape = tree.graph.tensors[source].shape.copy()
    windows = steps(old.filterHeight, old.filterWidth)
    for number, window in enumerate(windows[:-1]):
        shape = shape // (1, *window, 1)
        between = tree.new_like(made, shape)
        # Ranges are kept by name, so names must tell the tensors of all stages apart.
        tree.graph.tensors[between].name = tree.graph.tensors[made].name + f"/{number}".encode()
        place = next(at for at, each in enumerate(tree.graph.operators) if each is operator)
        earlier = tree.add("DEPTHWISE_CONV_2D", [], between, place=place)
        _average(tree, earlier, source, window)
        source = between
    operator.opcodeIndex = tree.opcode("DEPTHWISE_CONV_2D")
    _average(tree, operator, source, windows[-1])


def _average(tree: Tree, operator: Any, source: int, window: tuple[int, int]) -> None:
    """Make an operator the depthwise convolution with windows side by side and equal weights."""
    from ai_edge_litert import schema_py_generated as schema

    options = schema.DepthwiseConv2DOptionsT()
    options.padding = schema.Padding.VALID
    options.strideH, options.strideW = window
    options.dilationHFactor = options.dilationWFactor = options.depthMultiplier = 1
    options.fusedActivationFunction = schema.ActivationFunctionType.NONE
    channels = int(tree.graph.tensors[source].shape[3])
    name = bytes(tree.graph.tensors[int(operator.outputs[0])].name)
    weights = np.full((1, *window, channels), 1 / (window[0] * window[1]), np.float32)
    inputs = [
        source,
        tree.constant(weights, name + b"/window"),
        tree.constant(np.zeros(channels, np.float32), name + b"/nothing"),
    ]
    operator.inputs = np.array(inputs, np.int32)
    operator.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
    operator.builtinOptions = options


def steps(height: int, width: int) -> list[tuple[int, int]]:
    """Windows that average a window of that size, one after the other, none too large to be fast.

    An average of averages of equally many values is their average.
    """
    if height * width <= _FAST_TAPS:
        return [(height, width)]
    fitting = [
        (rows, columns)
        for rows in _divisors(height)
        for columns in _divisors(width)
        if 1 < rows * columns <= _FAST_TAPS
    ]
    if not fitting:
        return [(height, width)]
    rows, columns = max(fitting, key=lambda window: (window[0] * window[1], -max(window)))
    return [(rows, columns), *steps(height // rows, width // columns)]


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
