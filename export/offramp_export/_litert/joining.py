"""Ranges of what concatenations join, so that no value is rounded again for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offramp_export._litert.flatbuffer import read_model
from offramp_export._litert.tree import opcodes, signature_trees

if TYPE_CHECKING:
    from collections.abc import Collection

    from offramp_export._litert.tree import Tree

__all__ = ["share_joined_ranges"]

_LEAST_SHARE = 0.5  # of the common range, for a tensor that others read as well


def share_joined_ranges(
    program: bytes, names: Collection[str], ranges: dict[str, dict[str, Any]]
) -> None:
    """Give tensors the range of the concatenation that they go into.

    In int8 a concatenation has one scale for all it joins, and the quantiser rounds to it whatever
    has another one. In a dense block, where each concatenation goes into the next, early channels
    would be rounded once for each. A tensor that others read too keeps its range if that is much
    the smaller one: its other readers would see few of the 256 steps.

    Args:
        program: In float32.
        names: Of the signatures to look at.
        ranges: Tensor name -> ``min`` and ``max``, arrays of one element; changed in place.
    """
    model = read_model(program)
    name_of = opcodes(model)
    for _, tree in signature_trees(model, names):
        # From the last to the first, so that a chain of them comes to one range.
        for operator in reversed(tree.graph.operators):
            if name_of(operator) == "CONCATENATION":
                _share(tree, operator, ranges)


def _share(tree: Tree, operator: Any, ranges: dict[str, dict[str, Any]]) -> None:
    common = ranges.get(_name(tree, operator.outputs[0]))
    if common is None:
        return
    for tensor in operator.inputs:
        own = ranges.get(_name(tree, tensor))
        if own is None or int(tensor) in tree.graph.inputs:
            continue
        alone = len(tree.readers(int(tensor))) == 1 and int(tensor) not in tree.graph.outputs
        if alone or _width(own) >= _LEAST_SHARE * _width(common):
            own.update(common)


def _name(tree: Tree, tensor: Any) -> str:
    name: str = tree.graph.tensors[int(tensor)].name.decode()
    return name


def _width(bounds: dict[str, Any]) -> float:
    # A range always holds zero.
    return float(max(bounds["max"].max(), 0.0) - min(bounds["min"].min(), 0.0))
