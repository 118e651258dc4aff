"""Poolings, and what passes its operand on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offramp_search.spaces import _operators as op
from offramp_search.spaces.static_transform._rules._base import Call, Operand, Reading, reads
from offramp_search.spaces.static_transform._rules._pointwise import UnaryRule

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__: list[str] = []


def _pair(value: Any) -> tuple[int, int]:
    values: Sequence[int] = [value] if isinstance(value, int) else value
    return (values[0], values[-1])


@reads("aten.max_pool2d.default")
def _read_max_pool(call: Call) -> Reading:
    x = call.operand("self", dimensions=3)
    a = call.arguments
    kernel = _pair(a["kernel_size"])
    whole = op.MaxPool(
        kernel,
        _pair(a["stride"]) if a["stride"] else kernel,
        _pair(a["padding"]),
        _pair(a["dilation"]),
        a["ceil_mode"],
    )
    return Reading(UnaryRule(whole, hosts=False), (x,))


@reads("aten.avg_pool2d.default")
def _read_average_pool(call: Call) -> Reading:
    x = call.operand("self", dimensions=3)
    a = call.arguments
    if a["divisor_override"] is not None:
        raise call.unsupported("it overrides the divisor")
    kernel = _pair(a["kernel_size"])
    stride, padding = _pair(a["stride"]) if a["stride"] else kernel, _pair(a["padding"])
    if kernel == x.shape[1:] and padding == (0, 0):
        return Reading(UnaryRule(op.GlobalPool(flatten=False), hosts=False), (x,))
    whole = op.AveragePool(kernel, stride, padding, a["ceil_mode"], a["count_include_pad"])
    return Reading(UnaryRule(whole, hosts=False), (x,))


@reads("aten.adaptive_avg_pool2d.default")
def _read_adaptive_pool(call: Call) -> Reading:
    x = call.operand("self", dimensions=3)
    height, width = call.arguments["output_size"]
    if (height, width) == x.shape[1:]:
        return Reading(None, (x,))
    if (height, width) == (1, 1):
        return Reading(UnaryRule(op.GlobalPool(flatten=False), hosts=False), (x,))
    if x.shape[1] % height or x.shape[2] % width:
        raise call.unsupported(
            f"a map of {x.shape[1]}×{x.shape[2]} has no equal windows for {height}×{width}"
        )
    window = (x.shape[1] // height, x.shape[2] // width)
    return Reading(UnaryRule(op.AveragePool(window, window), hosts=False), (x,))


@reads("aten.mean.dim")
def _read_mean(call: Call) -> Reading:
    x = call.operand("self", dimensions=3)
    if sorted(dim % 4 for dim in call.arguments["dim"] or ()) != [2, 3]:
        raise call.unsupported("only a mean over rows and columns together is supported")
    whole = op.GlobalPool(flatten=not call.arguments["keepdim"])
    return Reading(UnaryRule(whole, hosts=False), (x,))


@reads(
    "aten.alias.default",
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten.detach_.default",
    "aten.dropout.default",
    "aten.dropout_.default",
    "aten.feature_dropout.default",
    "aten.to.dtype",
    "aten.to.device",
)
def _read_identity(call: Call) -> Reading:
    if call.arguments.get("train"):
        raise call.unsupported("it is in training mode")
    return Reading(None, (next(v for v in call.arguments.values() if isinstance(v, Operand)),))
