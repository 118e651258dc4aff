"""Every second position of a map, in a form that XNNPACK takes."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["share_scales", "subsample_by_convolution", "without_strided_slices"]

_ATEN = torch.ops.aten
_MAP_RANK = 4
_ROWS, _COLUMNS = 2, 3
_WEIGHT = "subsample_weight"


def subsample_by_convolution(module: torch.fx.GraphModule) -> bool:
    """Give slices with a step the form of a depthwise convolution whose weights are all one.

    That is how the parameter-free shortcuts of CIFAR ResNets leave pixels out. XNNPACK takes no
    slice with a step, so each would run in a plain kernel and cut XNNPACK's graph in two around it;
    a convolution by one gives the same values.

    Args:
        module: Of an exported program; changed in place.

    Returns:
        Whether there was such a slice.
    """
    graph, numbers, found = module.graph, count(), False
    for node in list(graph.nodes):
        step = _step(node)
        if step is None:
            continue
        before, (rows, columns) = node.args[0], step
        inner = _step(before)
        if inner is not None and len(before.users) == 1:
            before, rows, columns = before.args[0], rows * inner[0], columns * inner[1]
        elif any(_step(user) is not None for user in node.users) and len(node.users) == 1:
            continue  # its reader takes both
        channels = before.meta["val"].shape[1]
        name = f"{_WEIGHT}_{next(numbers)}"
        weight = torch.ones(channels, 1, 1, 1)
        setattr(module, name, torch.nn.Parameter(weight, requires_grad=False))
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
            made = graph.call_function(
                _ATEN.conv2d.default,
                (before, constant, None, [rows, columns], [0, 0], [1, 1], channels),
            )
        made.meta = dict(node.meta)
        with node.meta["val"].fake_mode:
            constant.meta["val"] = torch.empty(weight.shape)
        node.replace_all_uses_with(made)
        found = True
    if found:
        graph.eliminate_dead_code()
        module.recompile()
    return found


def without_strided_slices(program: Any) -> Any:
    """The exported program with every such slice replaced, or as it is where there is none."""
    module = program.module(check_guards=False)
    if not subsample_by_convolution(module):
        return program
    inputs, _ = program.example_inputs
    return torch.export.export(module, inputs)


def share_scales(observed: torch.fx.GraphModule) -> None:
    """Let what such a convolution makes have the scale of what it reads, so that it rounds nothing.

    Args:
        observed: The module, prepared for calibration; changed in place.
    """
    for node in observed.graph.nodes:
        if node.target is not _ATEN.conv2d.default or not _is_ours(node.args[1]):
            continue
        (after,) = node.users
        before = node.args[0]
        if before.op == after.op == "call_module":
            observed.add_submodule(str(after.target), observed.get_submodule(str(before.target)))


def _step(node: Any) -> tuple[int, int] | None:
    """The steps in rows and columns of a slice that has one and leaves out nothing else."""
    with_step = 5
    if node.target is not _ATEN.slice.Tensor or len(node.args) != with_step:
        return None
    source, axis, start, end, step = node.args
    shape: Sequence[int] = source.meta["val"].shape
    if len(shape) != _MAP_RANK or axis not in (_ROWS, _COLUMNS):
        return None
    if start or end < shape[axis]:
        return None
    return (step, 1) if axis == _ROWS else (1, step)


def _is_ours(node: Any) -> bool:
    if node.op == "call_module":  # an observer
        node = node.args[0]
    return node.op == "get_attr" and str(node.target).startswith(_WEIGHT)
