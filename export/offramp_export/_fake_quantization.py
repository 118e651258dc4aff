"""Running torch stages with the roundings of static int8 in them.

Calls of torch functions are intercepted as they happen, so any module will do. The activations that
an operator reads are rounded, not those it makes: what lies between two such operators (batch
normalisation, an activation function) is thereby fused with the first one, as it is in the program.
"""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from offramp_export._usual_bounds import usual_bounds
from offramp_export.network import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

__all__ = ["FakeQuantization", "measure_ranges", "quantized_run"]

_WITH_WEIGHTS = {"conv1d", "conv2d", "linear"}
_ROUNDED = _WITH_WEIGHTS | {
    "add", "add_", "__add__", "__iadd__", "__radd__", "sub", "__sub__", "__rsub__", "mul",
    "__mul__", "__rmul__", "cat", "concat", "avg_pool2d", "adaptive_avg_pool2d", "mean", "amax",
    "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "gelu", "softmax",
}  # fmt: skip

Place = tuple[int, int, int]
"""Stage, number of the call in it, number of the activation in that call."""

FakeQuantization = dict[Place, tuple[float, float]]
"""The range of every activation that is rounded."""


def quantized_run(
    stages: Sequence[nn.Module], ranges: Mapping[Place, tuple[float, float]], image: Tensor
) -> list[Tensor]:
    """The logits of every exit with weights and activations rounded to int8.

    Args:
        stages: In evaluation mode; gradients pass through the roundings.
        ranges: As ``measure_ranges`` returns them.
        image: ``(images, height, width, 3)`` float32, 0 to 255.
    """
    # Several operators may read a tensor; whichever does, its range and its rounding are the same.
    # The tensor is kept beside its rounding, so that no other one is given its identity.
    done: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def rounded(place: Place, value: Tensor) -> Tensor:
        key = id(value), value._version
        if key not in done:
            done[key] = value, _round_activation(value, ranges[place])
        return done[key][1]

    return _run(stages, image, rounded, weights=True)


def measure_ranges(
    stages: Sequence[nn.Module], images: NDArray[np.uint8], batch_size: int
) -> FakeQuantization:
    """The bounds of every activation that is rounded, as the LiteRT target chooses them.

    Args:
        stages: In evaluation mode.
        images: ``(images, height, width, 3)`` uint8.
        batch_size: Images at a time.
    """
    seen: dict[Place, list[NDArray[np.float32]]] = {}
    positions: dict[Place, int] = {}

    def observe(place: Place, value: Tensor) -> Tensor:
        bounds = torch.stack(value.flatten(1).aminmax(dim=1))
        seen.setdefault(place, []).append(bounds.numpy())
        positions[place] = math.prod(value.shape[2:]) if value.ndim > 2 else 0
        return value

    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(images[start : start + batch_size].astype(np.float32))
            _run(stages, batch, observe, weights=False)
    return {
        place: usual_bounds(*np.concatenate(bounds, 1), positions=positions[place])
        for place, bounds in seen.items()
    }


def _run(
    stages: Sequence[nn.Module],
    image: Tensor,
    visit: Callable[[Place, Tensor], Tensor],
    *,
    weights: bool,
) -> list[Tensor]:
    answers = []
    carry: tuple[Tensor, ...] = (image,)
    for index, stage in enumerate(stages):
        mode = _Rounding(stage, index, visit, weights=weights)
        hooks = []
        for module in stage.modules():
            if isinstance(module, Preprocess):
                # The programs keep the image exact, through its normalisation too.
                hooks.append(module.register_forward_pre_hook(mode.leave))
                hooks.append(module.register_forward_hook(mode.resume))
        try:
            with mode:
                logits, *carried = stage(*carry)
        finally:
            for hook in hooks:
                hook.remove()
        answers.append(visit((index, -1, 0), logits))
        carry = tuple(visit((index, -1, 1 + place), value) for place, value in enumerate(carried))
    return answers


@final
class _Rounding(TorchFunctionMode):
    def __init__(
        self,
        stage: nn.Module,
        index: int,
        visit: Callable[[Place, Tensor], Tensor],
        *,
        weights: bool,
    ) -> None:
        super().__init__()
        # A view of a weight has its storage.
        self._constants = {
            value.untyped_storage().data_ptr() for value in (*stage.parameters(), *stage.buffers())
        }
        self._index = index
        self._visit = visit
        self._weights = weights
        self._calls = 0
        self._outside = False
        self._image: Tensor | None = None

    def leave(self, *_: object) -> None:
        self._outside = True

    def resume(self, _: nn.Module, __: object, image: Tensor) -> None:
        self._outside = False
        self._image = image

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").split(".")[0]
        if name not in _ROUNDED or self._outside:
            return func(*args, **(kwargs or {}))
        call, self._calls = self._calls, self._calls + 1
        found = count()
        made = [self._rounded(value, call, found) for value in args]
        if name in _WITH_WEIGHTS and self._weights and len(made) > 1:
            made[1] = _round_weight(made[1])
        named = {key: self._rounded(value, call, found) for key, value in (kwargs or {}).items()}
        return func(*made, **named)

    # No function inside another: one that calls itself keeps all activations until a collection.
    def _rounded(self, value: Any, call: int, found: Iterator[int]) -> Any:
        if isinstance(value, list | tuple):
            return type(value)([self._rounded(item, call, found) for item in value])
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if value.untyped_storage().data_ptr() in self._constants or value is self._image:
            return value
        return self._visit((self._index, call, next(found)), value)


def _round_activation(value: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    scale = max((high - low) / 255, 1e-12)
    zero_point = min(max(round(-128 - low / scale), -128), 127)
    rounded: Tensor = _RoundActivation.apply(value, scale, zero_point)  # type: ignore[no-untyped-call]
    return rounded


@final
class _RoundActivation(torch.autograd.Function):
    """``torch.fake_quantize_per_tensor_affine``, whose kernel takes three times as long."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float, zero_point: int) -> Tensor:
        ctx.save_for_backward(value)
        smallest, largest = -128 - zero_point, 127 - zero_point
        # What is not cut off rounds to one of these, so it lies half a step beyond them at most.
        ctx.bounds = (smallest - 0.5) * scale, (largest + 0.5) * scale
        return (value * (1 / scale)).round_().clamp_(smallest, largest).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, value, *ctx.bounds), None, None


def _round_weight(weight: Tensor) -> Tensor:
    largest = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-12)
    zero = torch.zeros_like(largest, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, largest / 127, zero, 0, -127, 127)
