"""What a step of a stage does, as plain data: what a block's key is written with.

Each operator says everything that decides its latency and nothing else, and can be made into a
module with random weights from that alone.
"""

from __future__ import annotations

from typing import TypeAlias, final

import msgspec
from torch import nn

from offramp_search.spaces import _modules as modules

__all__ = [
    "Activation",
    "Add",
    "AveragePool",
    "BatchNorm",
    "Concatenate",
    "Convolution",
    "Flatten",
    "GlobalPool",
    "Linear",
    "MaxPool",
    "Multiply",
    "Normalise",
    "Operator",
    "Pad",
    "Reorder",
    "Scalar",
    "Select",
    "SpatialSlice",
    "SummedConvolution",
    "Unflatten",
]

Pair: TypeAlias = tuple[int, int]
Span: TypeAlias = tuple[int, int, int]


@final
class Convolution(msgspec.Struct, frozen=True, tag=True):
    """A two-dimensional convolution."""

    inputs: int
    outputs: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    bias: bool

    def module(self) -> nn.Module:
        """A convolution with random weights."""
        return nn.Conv2d(
            self.inputs,
            self.outputs,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias,
        )


@final
class Linear(msgspec.Struct, frozen=True, tag=True):
    """A linear layer on ``(images, features)``."""

    inputs: int
    outputs: int
    bias: bool

    def module(self) -> nn.Module:
        """A linear layer with random weights."""
        return nn.Linear(self.inputs, self.outputs, self.bias)


@final
class BatchNorm(msgspec.Struct, frozen=True, tag=True):
    """Batch normalisation over maps (two dimensions) or features (none)."""

    channels: int
    dimensions: int
    epsilon: float
    momentum: float
    affine: bool

    def module(self) -> nn.Module:
        """A batch normalisation with fresh statistics."""
        kind = nn.BatchNorm2d if self.dimensions == 2 else nn.BatchNorm1d
        return kind(self.channels, self.epsilon, self.momentum, self.affine)


@final
class SummedConvolution(msgspec.Struct, frozen=True, tag=True):
    """A convolution of tensors that it does not join, and the normalisation of its sum.

    The whole convolution's kernel is split by input channels; the first tensor's part has the bias.
    """

    inputs: tuple[int, ...]
    outputs: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    bias: bool
    norm: BatchNorm | None = None

    def module(self) -> nn.Module:
        """Convolutions with random weights."""
        parts = [
            nn.Conv2d(
                inputs,
                self.outputs,
                self.kernel,
                self.stride,
                self.padding,
                self.dilation,
                bias=self.bias and place == 0,
            )
            for place, inputs in enumerate(self.inputs)
        ]
        norm = None if self.norm is None else self.norm.module()
        assert norm is None or isinstance(norm, nn.BatchNorm2d)
        return modules.SummedConvolution(parts, norm)


@final
class Activation(msgspec.Struct, frozen=True, tag=True):
    """An activation: the name of torch's module and its numbers."""

    name: str
    arguments: tuple[tuple[str, float | str], ...] = ()

    def module(self) -> nn.Module:
        """The activation."""
        made: nn.Module = getattr(nn, self.name)(**dict(self.arguments))
        return made


@final
class MaxPool(msgspec.Struct, frozen=True, tag=True):
    """Maximum over windows."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil: bool

    def module(self) -> nn.Module:
        """The pooling."""
        return nn.MaxPool2d(
            self.kernel, self.stride, self.padding, self.dilation, ceil_mode=self.ceil
        )


@final
class AveragePool(msgspec.Struct, frozen=True, tag=True):
    """Average over windows."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil: bool = False
    count_padding: bool = True

    def module(self) -> nn.Module:
        """The pooling."""
        return nn.AvgPool2d(self.kernel, self.stride, self.padding, self.ceil, self.count_padding)


@final
class GlobalPool(msgspec.Struct, frozen=True, tag=True):
    """Average over all rows and columns, with or without dropping them.

    ``AdaptiveAvgPool2d(1)`` and not ``mean``: a mean costs LiteRT a transpose and is not delegated
    by ExecuTorch.
    """

    flatten: bool

    def module(self) -> nn.Module:
        """The pooling."""
        pool = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(pool, nn.Flatten(1)) if self.flatten else pool


@final
class SpatialSlice(msgspec.Struct, frozen=True, tag=True):
    """A strided part of the rows and columns."""

    rows: Span
    columns: Span

    def module(self) -> nn.Module:
        """The slice."""
        return modules.SpatialSlice(self.rows, self.columns)


@final
class Select(msgspec.Struct, frozen=True, tag=True):
    """Ranges of channels, as ``(start, length)``."""

    ranges: tuple[Pair, ...]

    def module(self) -> nn.Module:
        """The selection."""
        return modules.Select(self.ranges)


@final
class Reorder(msgspec.Struct, frozen=True, tag=True):
    """All channels in another order."""

    order: tuple[int, ...]

    def module(self) -> nn.Module:
        """The gathering; in a network of shared weights, never in a stage."""
        return modules.Reorder(self.order)


@final
class Pad(msgspec.Struct, frozen=True, tag=True):
    """Constant columns, rows and channels around, in torch's order."""

    padding: tuple[int, int, int, int, int, int]
    value: float

    def module(self) -> nn.Module:
        """The padding."""
        return modules.Pad(self.padding, self.value)


@final
class Flatten(msgspec.Struct, frozen=True, tag=True):
    """From maps to features."""

    def module(self) -> nn.Module:
        """The reshape."""
        return nn.Flatten(1)


@final
class Unflatten(msgspec.Struct, frozen=True, tag=True):
    """From features to maps of one pixel."""

    def module(self) -> nn.Module:
        """The reshape."""
        return nn.Unflatten(1, (-1, 1, 1))


@final
class Scalar(msgspec.Struct, frozen=True, tag=True):
    """``x * scale + offset``."""

    scale: float
    offset: float

    def module(self) -> nn.Module:
        """The operator."""
        return modules.Scalar(self.scale, self.offset)


@final
class Concatenate(msgspec.Struct, frozen=True, tag=True):
    """Tensors joined along the channels."""

    def module(self) -> nn.Module:
        """The concatenation."""
        return modules.Concatenate()


@final
class Add(msgspec.Struct, frozen=True, tag=True):
    """Sum of tensors."""

    def module(self) -> nn.Module:
        """The sum."""
        return modules.Add()


@final
class Multiply(msgspec.Struct, frozen=True, tag=True):
    """Product of tensors."""

    def module(self) -> nn.Module:
        """The product."""
        return modules.Multiply()


@final
class Normalise(msgspec.Struct, frozen=True, tag=True):
    """From the image as the app has it to what the base was trained on."""

    def module(self) -> nn.Module:
        """A normalisation of channel-first images with numbers of no meaning.

        Blocks take and return channel-first maps, which exporters make channel-last at the edges;
        there it is what a stage's ``Preprocess`` is to a channel-last image.
        """
        return modules.Normalise(3)


Operator: TypeAlias = (
    Convolution
    | SummedConvolution
    | Linear
    | BatchNorm
    | Activation
    | MaxPool
    | AveragePool
    | GlobalPool
    | SpatialSlice
    | Select
    | Reorder
    | Pad
    | Flatten
    | Unflatten
    | Scalar
    | Concatenate
    | Add
    | Multiply
    | Normalise
)
"""Everything a step can do."""
