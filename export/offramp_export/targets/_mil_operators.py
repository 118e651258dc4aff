"""Operators of Core ML's program language, computed with torch.

Each takes its arguments by name, as the program has them: tensors, or plain Python values where
the program holds a constant that is not a tensor of weights.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["OPERATORS"]


def _integers(value: Any) -> list[int]:
    return [int(item) for item in torch.as_tensor(value).reshape(-1).tolist()]


def _spatial_pads(
    arguments: dict[str, Any], sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """``[before, after]`` for each spatial axis."""
    kind = arguments["pad_type"]
    if kind == "valid":
        return [0] * (2 * len(kernel))
    if kind == "custom":
        return _integers(arguments["pad"])
    if kind not in ("same", "same_lower"):
        raise ValueError(f"padding {kind!r}")
    pads = []
    for size, width, stride in zip(sizes, kernel, strides, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + width - size, 0)
        small, large = total // 2, total - total // 2
        pads += [small, large] if kind == "same" else [large, small]
    return pads


def _pad(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    if not any(pads):
        return x
    flat: list[int] = []
    # The program counts axes from the first, torch from the last.
    for axis in reversed(range(len(pads) // 2)):
        flat += pads[2 * axis : 2 * axis + 2]
    return F.pad(x, flat, value=value)


def _conv(**a: Any) -> Tensor:
    x, weight = a["x"], a["weight"]
    axes = x.ndim - 2
    strides = _integers(a.get("strides", [1] * axes))
    dilations = _integers(a.get("dilations", [1] * axes))
    reach = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    padded = _pad(x, _spatial_pads(a, x.shape[2:], reach, strides), 0.0)
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
    return convolve(
        padded, weight, a.get("bias"), stride=strides, dilation=dilations,
        groups=int(a.get("groups", 1)),
    )  # fmt: skip


def _max_pool(**a: Any) -> Tensor:
    kernel = _integers(a["kernel_sizes"])
    strides = _integers(a.get("strides", [1] * len(kernel)))
    x = _pad(a["x"], _spatial_pads(a, a["x"].shape[2:], kernel, strides), -math.inf)
    return F.max_pool2d(x, kernel, strides, ceil_mode=bool(a.get("ceil_mode", False)))


def _avg_pool(**a: Any) -> Tensor:
    kernel = _integers(a["kernel_sizes"])
    strides = _integers(a.get("strides", [1] * len(kernel)))
    pads = _spatial_pads(a, a["x"].shape[2:], kernel, strides)
    ceil = bool(a.get("ceil_mode", False))
    total = F.avg_pool2d(_pad(a["x"], pads, 0.0), kernel, strides, ceil_mode=ceil)
    if not a.get("exclude_padding_from_average", False):
        return total
    inside = _pad(torch.ones_like(a["x"]), pads, 0.0)
    return total / F.avg_pool2d(inside, kernel, strides, ceil_mode=ceil)


def _batch_norm(**a: Any) -> Tensor:
    return F.batch_norm(
        a["x"], a["mean"], a["variance"], a.get("gamma"), a.get("beta"),
        eps=float(a.get("epsilon", 1e-5)),
    )  # fmt: skip


def _reduce(function: Callable[..., Tensor], **a: Any) -> Tensor:
    axes = _integers(a["axes"]) if "axes" in a else list(range(a["x"].ndim))
    result: Tensor = function(a["x"], dim=axes, keepdim=bool(a.get("keep_dims", False)))
    return result


def _slice_by_index(**a: Any) -> Tensor:
    x: Tensor = a["x"]
    if any(_integers(a.get("squeeze_mask", [0]))):
        raise ValueError("slice_by_index with squeeze_mask")
    open_begin = _integers(a.get("begin_mask", [0] * x.ndim))
    open_end = _integers(a.get("end_mask", [0] * x.ndim))
    strides = _integers(a.get("stride", [1] * x.ndim))
    begins, ends = _integers(a["begin"]), _integers(a["end"])
    for axis in range(x.ndim):
        begin = None if open_begin[axis] else begins[axis]
        end = None if open_end[axis] else ends[axis]
        index = torch.arange(x.shape[axis])[begin:end].tolist()[:: strides[axis]]
        x = x.index_select(axis, torch.tensor(index, dtype=torch.long))
    return x


def _pad_operator(**a: Any) -> Tensor:
    pads = _integers(a["pad"])
    mode = a.get("mode", "constant")
    if mode == "constant":
        return _pad(a["x"], pads, float(a.get("constant_val", 0.0)))
    flat = [value for pair in zip(pads[0::2], pads[1::2], strict=True) for value in pair]
    torch_mode = {"reflect": "reflect", "replicate": "replicate"}[mode]
    return F.pad(a["x"], flat[-2:] + flat[-4:-2], mode=torch_mode)


def _matmul(**a: Any) -> Tensor:
    x = a["x"].mT if a.get("transpose_x", False) else a["x"]
    y = a["y"].mT if a.get("transpose_y", False) else a["y"]
    return torch.matmul(x, y)


def _split(**a: Any) -> tuple[Tensor, ...]:
    x, axis = a["x"], int(a["axis"])
    if "split_sizes" in a:
        return torch.split(x, _integers(a["split_sizes"]), dim=axis)
    return torch.split(x, x.shape[axis] // int(a["num_splits"]), dim=axis)


def _squeeze(**a: Any) -> Tensor:
    return torch.squeeze(a["x"], dim=tuple(_integers(a["axes"])))


def _expand_dims(**a: Any) -> Tensor:
    x: Tensor = a["x"]
    rank = x.ndim + len(_integers(a["axes"]))
    for axis in sorted(axis % rank for axis in _integers(a["axes"])):
        x = x.unsqueeze(axis)
    return x


def _gelu(**a: Any) -> Tensor:
    mode = a.get("mode", "EXACT")
    return F.gelu(a["x"], approximate="none" if mode == "EXACT" else "tanh")


_INTEGERS = {"int8": (-128, 127), "uint8": (0, 255)}


def _along(value: Any, x: Tensor, axis: Any) -> Tensor:
    """A scale or zero point, one for all or one per place of an axis, to compute with."""
    values = torch.as_tensor(value, dtype=torch.float32)
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.ndim
    shape[int(axis)] = -1
    return values.reshape(shape)


def _quantize(**a: Any) -> Tensor:
    x, axis = a["input"], a.get("axis")
    low, high = _INTEGERS[a["output_dtype"]]
    steps = torch.round(x / _along(a["scale"], x, axis))
    return torch.clamp(steps + _along(a.get("zero_point", 0), x, axis), low, high)


def _dequantize(**a: Any) -> Tensor:
    x: Tensor = a["input"]
    axis = a.get("axis")
    return (x - _along(a.get("zero_point", 0), x, axis)) * _along(a["scale"], x, axis)


OPERATORS: dict[str, Callable[..., Any]] = {
    "abs": lambda x: torch.abs(x),
    "add": lambda x, y: x + y,
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "cast": lambda x, dtype: x,  # the caller rounds every result to its declared type
    "clip": lambda x, alpha, beta: torch.clamp(x, float(alpha), float(beta)),
    "concat": lambda values, axis, interleave=False: torch.cat(values, dim=int(axis)),
    "conv": _conv,
    "dequantize": _dequantize,
    "exp": lambda x: torch.exp(x),
    "expand_dims": _expand_dims,
    "gelu": _gelu,
    "identity": lambda x: x,
    "leaky_relu": lambda x, alpha: F.leaky_relu(x, float(alpha)),
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "matmul": _matmul,
    "max_pool": _max_pool,
    "maximum": lambda x, y: torch.maximum(x, torch.as_tensor(y, dtype=x.dtype)),
    "minimum": lambda x, y: torch.minimum(x, torch.as_tensor(y, dtype=x.dtype)),
    "mul": lambda x, y: x * y,
    "pad": _pad_operator,
    "prelu": lambda x, alpha: F.prelu(x, alpha),
    "quantize": _quantize,
    "real_div": lambda x, y: x / y,
    "reduce_max": functools.partial(_reduce, torch.amax),
    "reduce_mean": functools.partial(_reduce, torch.mean),
    "reduce_sum": functools.partial(_reduce, torch.sum),
    "relu": lambda x: F.relu(x),
    "relu6": lambda x: F.relu6(x),
    "reshape": lambda x, shape: x.reshape(_integers(shape)),
    "sigmoid": lambda x: torch.sigmoid(x),
    "sigmoid_hard": lambda x, alpha, beta: torch.clamp(float(alpha) * x + float(beta), 0, 1),
    "silu": lambda x: F.silu(x),
    "slice_by_index": _slice_by_index,
    "softmax": lambda x, axis: torch.softmax(x, dim=int(axis)),
    "split": _split,
    "sqrt": lambda x: torch.sqrt(x),
    "square": lambda x: x * x,
    "squeeze": _squeeze,
    "sub": lambda x, y: x - y,
    "tanh": lambda x: torch.tanh(x),
    "thresholded_relu": lambda x, alpha: torch.where(x >= float(alpha), x, torch.zeros_like(x)),
    "transpose": lambda x, perm: x.permute(_integers(perm)),
}
