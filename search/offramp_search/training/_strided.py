"""Depthwise convolutions with strides, the slow way that is fast on a processor."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["depthwise_without_strides"]


@contextmanager
def depthwise_without_strides(network: nn.Module) -> Iterator[None]:
    """In bfloat16 on a processor, let strided depthwise convolutions compute every position.

    Some are then left out. oneDNN has no fast bfloat16 gradient for these layers: one takes as long
    as many without strides, and the three of a MobileNetV2 take two fifths of its training. Forward
    and backward are the same sums, rounded in another order. In float32 they stay as they are.

    Args:
        network: Its modules compute as before once the context is left.
    """
    changed = [
        module
        for module in network.modules()
        if type(module) is nn.Conv2d and _is_strided_depthwise(module)
    ]
    try:
        for module in changed:
            module.forward = partial(_convolve_and_leave_out, module)  # type: ignore[method-assign]
        yield
    finally:
        for module in changed:
            # What lies in the instance hides the method of the class.
            module.__dict__.pop("forward", None)


def _is_strided_depthwise(module: nn.Conv2d) -> bool:
    return (
        1 < module.groups == module.in_channels
        and max(module.stride) > 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _convolve_and_leave_out(module: nn.Conv2d, x: Tensor) -> Tensor:
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return nn.Conv2d.forward(module, x)
    down, right = module.stride
    return nn.functional.conv2d(
        x, module.weight, module.bias, 1, module.padding, module.dilation, module.groups
    )[:, :, ::down, ::right]
