"""ReLU6 in static int8: rounded once, with the convolution or the linear layer before it.

XNNPACK's quantiser (executorch 1.5.1) knows a ReLU behind a layer and no other bound, so the layer
is rounded in a range that the bound cuts off, then again behind it, and the bound is computed in
float between the two. XNNPACK itself takes any clamp into the layer.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["bound_again", "pass_as_relu"]

_ATEN = torch.ops.aten
_BOUNDS = {
    _ATEN.hardtanh.default: (-1.0, 1.0),
    _ATEN.hardtanh_.default: (-1.0, 1.0),
    _ATEN.relu6.default: (0.0, 6.0),
    _ATEN.relu6_.default: (0.0, 6.0),
}
"""Operator -> its bounds if none are given."""
_LAYERS = {_ATEN.conv2d.default, _ATEN.conv2d.padding, _ATEN.linear.default}
_NORM = _ATEN.batch_norm.default
_KEY = "offramp_bounds"


def pass_as_relu(module: torch.fx.GraphModule) -> None:
    """Show bounds behind a layer as the ReLU that the quantiser knows.

    Args:
        module: As ``torch.export`` leaves it, before the quantiser prepares it; changed in place.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target not in _BOUNDS or not _is_behind_layer(node):
            continue
        source, *bounds = node.args
        low, high = bounds or _BOUNDS[node.target]
        with graph.inserting_before(node):
            relu = graph.call_function(_ATEN.relu.default, (source,))
        relu.meta = {**node.meta, _KEY: (low, high)}
        node.replace_all_uses_with(relu)
        graph.erase_node(node)
    module.recompile()


def bound_again(observed: torch.fx.GraphModule) -> None:
    """Compute the bounds again, so that what follows is calibrated on what there is.

    Args:
        observed: The same module, prepared for calibration; changed in place.
    """
    for node in observed.graph.nodes:
        if _KEY in node.meta and node.target is _ATEN.relu.default:
            node.target = _ATEN.hardtanh.default
            node.args = (node.args[0], *node.meta[_KEY])
    observed.recompile()


def _is_behind_layer(node: Any) -> bool:
    """Whether the layer's result is read by nothing else; a normalisation becomes part of it."""
    source = node.args[0]
    while len(source.users) == 1 and source.target is _NORM:
        source = source.args[0]
    return len(source.users) == 1 and source.target in _LAYERS
