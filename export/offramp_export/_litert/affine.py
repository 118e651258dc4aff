"""Batch normalisation that no convolution takes in, as a convolution of its own.

Before a ReLU that comes before the convolution, as in a DenseNet, LiteRT's converter leaves a
difference, two products and a sum. In int8 each of the four rounds its constants, with one scale
for all channels, and its result. A depthwise 1×1 convolution has a scale for every channel's
weight and a bias of 32 bits: it rounds once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from offramp_export._litert.flatbuffer import follow_edges, read_model, write_model
from offramp_export._litert.tree import opcodes, signature_trees

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numpy.typing import NDArray

    from offramp_export._litert.tree import Tree

__all__ = ["normalize_by_convolution"]

_ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
_SMALLEST = 1e-5  # share of the largest factor; below it a bias might not fit into 32 bits


def normalize_by_convolution(program: bytes, names: Collection[str]) -> bytes:
    """Make one depthwise convolution of several products and sums with a number per channel.

    Args:
        program: In float32.
        names: Of the signatures to change.
    """
    model = read_model(program)
    name_of = opcodes(model)
    changed = False
    for signature, tree in signature_trees(model, names):
        replaced = [
            _replace(tree, chain)
            for chain in [_chain(tree, name_of, each) for each in tree.graph.operators]
            if len(chain) > 1
        ]
        if any(replaced):
            changed = True
            tree.drop_unread()
            tree.prune()
            follow_edges(signature, tree.graph)
    return write_model(model) if changed else program


class _Step(NamedTuple):
    """One operator, the tensor it reads, and what it does to each channel."""

    operator: Any
    source: int
    factor: NDArray[np.float64]
    summand: NDArray[np.float64]


def _chain(tree: Tree, name_of: Callable[[Any], str], last: Any) -> list[_Step]:
    """The steps that end in an operator, first to last; none if it is not the end."""
    step = _read(tree, name_of, last)
    if step is None or _continues(tree, name_of, last):
        return []
    steps = [step]
    while (before := tree.maker(steps[0].source)) is not None:
        if not _continues(tree, name_of, before):
            break
        found = _read(tree, name_of, before)
        assert found is not None
        steps.insert(0, found)
    return steps


def _continues(tree: Tree, name_of: Callable[[Any], str], operator: Any) -> bool:
    """Whether an operator is a step, without an activation, that one other step alone reads."""
    made = int(operator.outputs[0])
    readers = tree.readers(made)
    return (
        _read(tree, name_of, operator) is not None
        and operator.builtinOptions.fusedActivationFunction == 0
        and made not in map(int, tree.graph.outputs)
        and len(readers) == 1
        and _read(tree, name_of, readers[0]) is not None
    )


def _read(tree: Tree, name_of: Callable[[Any], str], operator: Any) -> _Step | None:
    name = name_of(operator)
    if name not in ("ADD", "SUB", "MUL"):
        return None
    shape = tree.graph.tensors[int(operator.outputs[0])].shape
    first, second = map(int, operator.inputs)
    if tree.is_constant(first) == tree.is_constant(second):
        return None
    source, constant = (second, first) if tree.is_constant(first) else (first, second)
    if len(shape) != 4 or not np.array_equal(tree.graph.tensors[source].shape, shape):
        return None
    values = tree.floats(constant).astype(np.float64)
    if values.size not in (1, shape[3]) or values.size != (values.shape or (1,))[-1]:
        return None
    values = np.broadcast_to(values.reshape(-1), (int(shape[3]),))
    if name == "MUL":
        return _Step(operator, source, values, np.zeros_like(values))
    turned = name == "SUB" and constant == first
    factor = np.full_like(values, -1.0 if turned else 1.0)
    return _Step(operator, source, factor, -values if name == "SUB" and not turned else values)


def _replace(tree: Tree, chain: list[_Step]) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    factor, summand = np.ones(()), np.zeros(())
    for step in chain:
        factor, summand = factor * step.factor, summand * step.factor + step.summand
    last = chain[-1].operator
    activation = last.builtinOptions.fusedActivationFunction
    known = [getattr(schema.ActivationFunctionType, name) for name in _ACTIVATIONS]
    if activation not in known or np.abs(factor).min() <= _SMALLEST * np.abs(factor).max():
        return False
    options = schema.DepthwiseConv2DOptionsT()
    options.padding = schema.Padding.VALID
    options.strideH = options.strideW = 1
    options.dilationHFactor = options.dilationWFactor = options.depthMultiplier = 1
    options.fusedActivationFunction = activation
    name = bytes(tree.graph.tensors[int(last.outputs[0])].name)
    inputs = [
        chain[0].source,
        tree.constant(factor.astype(np.float32).reshape(1, 1, 1, -1), name + b"/factor"),
        tree.constant(summand.astype(np.float32), name + b"/summand"),
    ]
    last.opcodeIndex = tree.opcode("DEPTHWISE_CONV_2D")
    last.inputs = np.array(inputs, np.int32)
    last.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
    last.builtinOptions = options
    return True
