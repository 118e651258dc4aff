"""Operators of a stage that torch has no module for.

Those that move channels or pixels also have ``channel_last``, which does the same to
``(images, height, width, channels)`` maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Add",
    "Concatenate",
    "Multiply",
    "Normalise",
    "Pad",
    "Reorder",
    "Scalar",
    "Select",
    "SpatialSlice",
    "SummedConvolution",
]


@final
class Concatenate(nn.Module):
    """Join tensors along the channels."""

    def forward(self, *tensors: Tensor) -> Tensor:
        """Join ``(images, channels, ...)`` tensors."""
        return torch.cat(tensors, dim=1)

    def channel_last(self, *tensors: Tensor) -> Tensor:
        """Join ``(images, height, width, channels)`` tensors."""
        return torch.cat(tensors, dim=3)


@final
class Select(nn.Module):
    """Keep ranges of channels, in the order given.

    Args:
        ranges: ``(start, length)`` of each range.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.ranges = tuple(ranges)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the ranges of an ``(images, channels, ...)`` tensor."""
        parts = [x[:, start : start + length] for start, length in self.ranges]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def channel_last(self, x: Tensor) -> Tensor:
        """Keep the ranges of an ``(images, height, width, channels)`` tensor."""
        parts = [x[..., start : start + length] for start, length in self.ranges]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=3)

    def extra_repr(self) -> str:
        """The ranges."""
        return f"{self.ranges}"


@final
class Reorder(nn.Module):
    """Put all channels into another order.

    Args:
        order: For each output channel the input channel that it is.
    """

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        self.order = list(order)

    def forward(self, x: Tensor) -> Tensor:
        """Reorder an ``(images, channels, ...)`` tensor."""
        return x[:, self.order]


@final
class SpatialSlice(nn.Module):
    """Keep a strided part of the rows and columns.

    Args:
        rows: ``(start, stop, step)``.
        columns: ``(start, stop, step)``.
    """

    def __init__(self, rows: tuple[int, int, int], columns: tuple[int, int, int]) -> None:
        super().__init__()
        self.rows, self.columns = slice(*rows), slice(*columns)

    def forward(self, x: Tensor) -> Tensor:
        """Slice an ``(images, channels, height, width)`` tensor."""
        return x[:, :, self.rows, self.columns]

    def channel_last(self, x: Tensor) -> Tensor:
        """Slice an ``(images, height, width, channels)`` tensor."""
        return x[:, self.rows, self.columns]

    def extra_repr(self) -> str:
        """The slices."""
        return f"{self.rows}, {self.columns}"


@final
class Pad(nn.Module):
    """Add constant channels before and after, and constant rows and columns around.

    Args:
        padding: ``(left, right, top, bottom, channels before, channels after)``.
        value: What is added.
    """

    def __init__(self, padding: Sequence[int], value: float) -> None:
        super().__init__()
        self.padding, self.value = list(padding), value

    def forward(self, x: Tensor) -> Tensor:
        """Pad an ``(images, channels, height, width)`` tensor."""
        return functional.pad(x, self.padding, value=self.value)

    def channel_last(self, x: Tensor) -> Tensor:
        """Pad an ``(images, height, width, channels)`` tensor."""
        return functional.pad(x, [*self.padding[4:], *self.padding[:4]], value=self.value)

    def extra_repr(self) -> str:
        """The padding."""
        return f"{self.padding}, value={self.value}"


@final
class Add(nn.Module):
    """Sum of two or more tensors."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Add tensors of one shape, or of shapes that broadcast over rows and columns."""
        for other in others:
            first = first + other
        return first


@final
class SummedConvolution(nn.Module):
    """What a convolution makes of tensors joined along their channels, without joining them.

    In evaluation mode every summand is normalised by itself, the first with the offset, which
    comes to the same: so a converter meets a convolution and its normalisation side by side, and
    makes one of them. It could not do that across a sum.

    Args:
        parts: One convolution for each tensor.
        norm: Batch normalisation of the sum.
    """

    none: Tensor

    def __init__(self, parts: Sequence[nn.Conv2d], norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.norm = norm
        if norm is not None:
            none = torch.zeros(norm.num_features)
            self.register_buffer("none", none, persistent=False)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Convolve ``(images, channels, height, width)`` tensors, one for each part, and add."""
        summands = [part(x) for part, x in zip(self.parts, tensors, strict=True)]
        if self.norm is None or self.norm.training:
            total: Tensor = summands[0]
            for summand in summands[1:]:
                total = total + summand
            if self.norm is not None:
                total = self.norm(total)
            return total
        total = self.norm(summands[0])
        for summand in summands[1:]:
            total = total + functional.batch_norm(
                summand,
                self.none,
                self.norm.running_var,
                self.norm.weight,
                self.none,
                eps=self.norm.eps,
            )
        return total


@final
class Multiply(nn.Module):
    """Product of two or more tensors."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Multiply tensors of one shape, or of shapes that broadcast over rows and columns."""
        for other in others:
            first = first * other
        return first


@final
class Normalise(nn.Module):
    """A scale and an offset per channel: what a ``Preprocess`` does to a channel-last image.

    Args:
        channels: Channels of the image.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.01, 0.02, channels).view(1, -1, 1, 1))
        self.register_buffer("offset", torch.linspace(-2, -1, channels).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise an ``(images, channels, height, width)`` tensor."""
        return x * self.scale + self.offset


@final
class Scalar(nn.Module):
    """``x * scale + offset`` with two numbers.

    Args:
        scale: The factor.
        offset: The summand.
    """

    def __init__(self, scale: float, offset: float) -> None:
        super().__init__()
        self.scale, self.offset = scale, offset

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift a tensor."""
        if self.scale != 1:
            x = x * self.scale
        return x + self.offset if self.offset != 0 else x

    def extra_repr(self) -> str:
        """The numbers."""
        return f"scale={self.scale}, offset={self.offset}"
