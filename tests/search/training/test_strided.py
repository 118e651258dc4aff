"""Strided depthwise convolutions train alike, the fast way or their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from offramp_search.training._strided import depthwise_without_strides


def _layers(*, padding: int | str = 1, groups: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(6, 12, 3, (2, 3), padding, groups=groups), nn.Conv2d(12, 4, 5, 2, 2)
    )


def _gradients(layers: nn.Sequential, image: torch.Tensor, *, bfloat16: bool) -> list[torch.Tensor]:
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        out = layers(image)
    out.float().square().sum().backward()
    found = [out, image.grad, *(parameter.grad for parameter in layers.parameters())]
    layers.zero_grad(set_to_none=True)
    return [value.detach().float() for value in found if value is not None]


@pytest.mark.parametrize("side", [8, 9, 11])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_gradients_are_those_of_the_strided_layer(side: int, padding: int) -> None:
    layers = _layers(padding=padding)
    image = torch.randn(2, 6, side, side)
    own = _gradients(layers, image, bfloat16=True)
    with depthwise_without_strides(layers):
        assert "forward" in vars(layers[0])
        fast = _gradients(layers, image, bfloat16=True)
    for one, other in zip(own, fast, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 * one.abs().max().item())
    assert "forward" not in vars(layers[0])


def test_float32_is_left_alone_to_the_bit() -> None:
    layers, image = _layers(), torch.randn(2, 6, 9, 9)
    own = _gradients(layers, image, bfloat16=False)
    with depthwise_without_strides(layers):
        inside = _gradients(layers, image, bfloat16=False)
    assert all(torch.equal(one, other) for one, other in zip(own, inside, strict=True))


def test_only_strided_depthwise_layers_are_touched() -> None:
    for layers in (_layers(groups=2), _layers(padding="valid")):
        with depthwise_without_strides(layers):
            assert not any("forward" in vars(module) for module in layers)


def test_a_failure_inside_leaves_the_layers_as_they_were() -> None:
    layers = _layers()
    with pytest.raises(RuntimeError), depthwise_without_strides(layers):
        layers(torch.zeros(1, 5, 9, 9))
    assert "forward" not in vars(layers[0])
