"""What lies between a map and the classifier of an exit that hangs on it: a head, a pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from offramp_search.spaces import _operators as op
from offramp_search.spaces.static_transform._rules import (
    BatchNormRule,
    DenseRule,
    FlattenRule,
    UnaryRule,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from offramp_search.spaces.static_transform._rules import Rule

__all__ = ["Layer", "exit_layers", "reduction", "share_out"]

Layer: TypeAlias = "tuple[str, Rule, tuple[int, ...]]"
"""What a layer is called, what it does, and the shape of its output without the images."""

_KERNEL = 3
_MOST_POSITIONS, _LEAST_POSITIONS = 64, 16
_SHARE = 1 / 15
"""Of the multiply-adds that the base spends up to a map, what its head may cost at most."""


def reduction(shape: tuple[int, int, int], outputs: int, spent: int) -> tuple[int, int]:
    """How far a head reduces its map: the side of the averages it takes, and its stride.

    The finest of the ways to compute at most eight by eight positions, or as many, for at most a
    fifteenth of what the base spends up to the map. Where there is none it is the coarsest way with
    four by four positions, or as many; maps that are smaller than that stay as they are.

    Args:
        shape: Of the map: channels, rows and columns.
        outputs: Channels of the head.
        spent: Multiply-adds of the base up to the map.
    """
    channels, rows, columns = shape
    sides = [
        side for side in range(1, min(rows, columns) + 1) if not (rows % side or columns % side)
    ]
    possible: list[tuple[int, int]] = []
    for side, stride in ((1, 1), *((side, 2) for side in sides)):
        positions = _halved(rows // side, stride) * _halved(columns // side, stride)
        if possible and positions < _LEAST_POSITIONS:
            break
        possible.append((side, stride))
        cost = positions * outputs * channels * _KERNEL**2
        if positions <= _MOST_POSITIONS and cost <= _SHARE * spent:
            break
    return possible[-1]


def exit_layers(
    shape: tuple[int, ...], *, grid: int, channels: int, spent: int, generator: torch.Generator
) -> Iterator[Layer]:
    """The layers from a map to what a classifier reads, in their order.

    Args:
        shape: Of the map: channels, rows and columns.
        grid: Rows and columns, at most, of the averages that the classifier reads.
        channels: Of the head; 0 is none.
        spent: Multiply-adds of the base up to the map.
        generator: For the weights of the head's convolution, normal and scaled by what each output
            reads (He et al. 2015, equation 10).
    """
    if channels:
        for layer in _head(shape, channels, spent, generator):
            yield layer
            shape = layer[2]
    channels, height, width = shape
    rows, columns = _largest_divisor(height, grid), _largest_divisor(width, grid)
    if rows * columns == 1:
        yield "", UnaryRule(op.GlobalPool(flatten=True), hosts=False), (channels,)
        return
    window = (height // rows, width // columns)
    if window != (1, 1):
        pool = UnaryRule(op.AveragePool(window, window), hosts=False)
        yield "pool", pool, (channels, rows, columns)
    yield "", FlattenRule(rows * columns), (channels * rows * columns,)


def _head(
    shape: tuple[int, ...], outputs: int, spent: int, generator: torch.Generator
) -> Iterator[Layer]:
    """Averages where the map is large, a convolution, a batch normalisation and a rectifier."""
    channels, rows, columns = shape
    side, stride = reduction((channels, rows, columns), outputs, spent)
    if side > 1:
        rows, columns = rows // side, columns // side
        shrink = UnaryRule(op.AveragePool((side, side), (side, side)), hosts=False)
        yield "shrink", shrink, (channels, rows, columns)
    whole = op.Convolution(
        channels, outputs, (_KERNEL, _KERNEL), (stride, stride), (1, 1), (1, 1), 1, bias=False
    )
    weight = torch.empty(outputs, channels, _KERNEL, _KERNEL)
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    rows, columns = _halved(rows, stride), _halved(columns, stride)
    yield "conv", DenseRule(whole, rows * columns, weight, None), (outputs, rows, columns)
    norm = nn.BatchNorm2d(outputs)
    normal = BatchNormRule(op.BatchNorm(outputs, 2, norm.eps, 0.1, affine=True), norm.state_dict())
    yield "norm", normal, (outputs, rows, columns)
    yield "relu", UnaryRule(op.Activation("ReLU"), hosts=False), (outputs, rows, columns)


def share_out(channels: int, stages: Sequence[int]) -> bytes:
    """The label of each channel of a head whose stages, in their order, get equal shares."""
    count = len(stages)
    return b"".join(
        bytes([stage]) * (channels * (place + 1) // count - channels * place // count)
        for place, stage in enumerate(stages)
    )


def _halved(size: int, stride: int) -> int:
    """Rows or columns of a convolution that is padded by one on each side."""
    return -(-size // stride)


def _largest_divisor(size: int, limit: int) -> int:
    return max(part for part in range(1, min(size, limit) + 1) if size % part == 0)
