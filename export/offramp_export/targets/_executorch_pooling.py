"""Averages over a grid, in the form that XNNPACK takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["fix_windows"]

_ATEN = torch.ops.aten


def fix_windows(program: Any) -> None:
    """Give average poolings that adapt to the map's size the window that this makes of them.

    XNNPACK takes a pooling with a fixed window, and of those that adapt only the one to a single
    average. Any other would run in a plain kernel and cut XNNPACK's graph in two around it. A grid
    that does not divide the map has windows of several sizes and is left as it is.

    Args:
        program: An exported program, changed in place.
    """
    for node in program.graph.nodes:
        if node.target is not _ATEN.adaptive_avg_pool2d.default:
            continue
        window = _window(node.args[0].meta["val"].shape[-2:], node.args[1])
        if window is not None:
            node.target = _ATEN.avg_pool2d.default
            node.args = (node.args[0], window, window)
            # The quantiser goes by these, and would have averages answer in the scale of the map,
            # of which they fill a small part. As it is, they are computed in float32 and rounded
            # by the layer that reads them.
            for trace in ("source_fn_stack", "torch_fn", "nn_module_stack"):
                node.meta.pop(trace, None)
    program.graph_module.recompile()


def _window(size: Sequence[int], grid: Sequence[int]) -> list[int] | None:
    if list(grid) == [1, 1] or any(side % cells for side, cells in zip(size, grid, strict=True)):
        return None
    return [side // cells for side, cells in zip(size, grid, strict=True)]
