"""Concatenation, slices, padding and reshapes: operators that only move channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from offramp_search.spaces import _operators as op
from offramp_search.spaces.static_transform._rules._base import (
    Call,
    Channels,
    Operand,
    Reading,
    Rule,
    reads,
)
from offramp_search.spaces.static_transform._rules._pointwise import UnaryRule

__all__ = ["PadRule"]


@final
@dataclass(frozen=True)
class ConcatenateRule(Rule):
    """Operands side by side along the channels.

    Args:
        sizes: Channels of each operand.
    """

    sizes: tuple[int, ...]

    hosts = True

    def labels(self, operands: tuple[bytes, ...], decision: bytes) -> bytes:
        """The operands', side by side."""
        return b"".join(operands)

    def demand(self, output: bytes, operand: int, labels: bytes, stages: int) -> bytes:
        """The operand's part."""
        start = sum(self.sizes[:operand])
        return output[start : start + self.sizes[operand]]

    def wanted(self, operand: int, channels: Channels) -> Channels:
        """The channels in the operand's part."""
        start = sum(self.sizes[:operand])
        stop = start + self.sizes[operand]
        return tuple(channel - start for channel in channels if start <= channel < stop)

    def piece(self, channels: Channels, reads: tuple[Channels, ...]) -> op.Operator | None:
        """A concatenation of those operands that have something to give."""
        return op.Concatenate() if sum(1 for read in reads if read) > 1 else None


@final
@dataclass(frozen=True)
class PadRule(Rule):
    """Constant channels before and after, and constant rows and columns around.

    Args:
        whole: The operator with all channels.
        inputs: Channels of the operand.
    """

    whole: op.Pad
    inputs: int

    def labels(self, operands: tuple[bytes, ...], decision: bytes) -> bytes:
        """The operand's; constants are there from the start."""
        return bytes(self._before) + operands[0] + bytes(self.whole.padding[5])

    def demand(self, output: bytes, operand: int, labels: bytes, stages: int) -> bytes:
        """The operand's part."""
        return output[self._before : self._before + self.inputs]

    def wanted(self, operand: int, channels: Channels) -> Channels:
        """Those that are not constant."""
        before = self._before
        return tuple(c - before for c in channels if before <= c < before + self.inputs)

    def piece(self, channels: Channels, reads: tuple[Channels, ...]) -> op.Operator | None:
        """A padding with fewer constant channels."""
        before = sum(1 for channel in channels if channel < self._before)
        after = len(channels) - before - len(reads[0])
        left, right, top, bottom = self.whole.padding[:4]
        padding = (left, right, top, bottom, before, after)
        return op.Pad(padding, self.whole.value) if any(padding) else None

    @property
    def _before(self) -> int:
        return self.whole.padding[4]


@final
@dataclass(frozen=True)
class ChannelSliceRule(Rule):
    """A contiguous range of channels; no operator at all, only a smaller demand.

    Args:
        start: The first channel.
        size: How many.
        inputs: Channels of the operand.
    """

    start: int
    size: int
    inputs: int

    def labels(self, operands: tuple[bytes, ...], decision: bytes) -> bytes:
        """The operand's, of the range."""
        return operands[0][self.start : self.start + self.size]

    def demand(self, output: bytes, operand: int, labels: bytes, stages: int) -> bytes:
        """Nothing outside the range is ever read."""
        after = self.inputs - self.start - self.size
        return bytes([stages]) * self.start + output + bytes([stages]) * after

    def wanted(self, operand: int, channels: Channels) -> Channels:
        """The same channels, numbered as in the operand."""
        return tuple(channel + self.start for channel in channels)

    def piece(self, channels: Channels, reads: tuple[Channels, ...]) -> None:
        """Nothing to do: what is wanted is given."""
        return

    def at_once(self, channels: Channels, reads: tuple[Channels, ...]) -> op.Operator:
        """The slice."""
        return op.Select(((self.start, self.size),))


@final
@dataclass(frozen=True)
class FlattenRule(Rule):
    """From ``(channels, height, width)`` to features, all of a channel's side by side.

    Args:
        pixels: Height times width.
    """

    pixels: int

    def labels(self, operands: tuple[bytes, ...], decision: bytes) -> bytes:
        """The channel's, for each of its features."""
        return bytes(label for label in operands[0] for _ in range(self.pixels))

    def demand(self, output: bytes, operand: int, labels: bytes, stages: int) -> bytes:
        """When the features are read, which is at one time for all of a channel."""
        return output[:: self.pixels]

    def align(self, labels: bytes) -> bytes:
        """The features of a channel come together."""
        first = [labels[i : i + self.pixels] for i in range(0, len(labels), self.pixels)]
        return bytes(label for part in first for label in [min(part)] * self.pixels)

    def wanted(self, operand: int, channels: Channels) -> Channels:
        """The channels of the features."""
        return tuple(channel // self.pixels for channel in channels[:: self.pixels])

    def piece(self, channels: Channels, reads: tuple[Channels, ...]) -> op.Operator:
        """A flatten."""
        return op.Flatten()


@reads("aten.cat.default")
def _read_concatenation(call: Call) -> Reading:
    operands = call.arguments["tensors"]
    if not all(isinstance(operand, Operand) for operand in operands):
        raise call.unsupported("it joins a constant")
    if call.arguments["dim"] % (len(call.shape) + 1) != 1:
        raise call.unsupported("only channels can be joined")
    if len(operands) == 1:
        return Reading(None, tuple(operands))
    return Reading(ConcatenateRule(tuple(x.shape[0] for x in operands)), tuple(operands))


@reads("aten.slice.Tensor")
def _read_slice(call: Call) -> Reading:
    x = call.operand("self")
    a = call.arguments
    dimension = a["dim"] % (len(x.shape) + 1)
    if dimension == 0:
        if a["start"] in (None, 0) and a["step"] == 1 and (a["end"] or math.inf) >= 2**31:
            return Reading(None, (x,))
        raise call.unsupported("it drops images")
    size = x.shape[dimension - 1]
    start, stop, step = slice(a["start"], a["end"], a["step"]).indices(size)
    if (start, stop, step) == (0, size, 1):
        return Reading(None, (x,))
    if dimension == 1:
        if step != 1:
            raise call.unsupported("channels can only be sliced without a step")
        return Reading(ChannelSliceRule(start, stop - start, size), (x,))
    if len(x.shape) != 3:
        raise call.unsupported(f"its input has shape {x.shape} without the images")
    rows, columns = (0, x.shape[1], 1), (0, x.shape[2], 1)
    part = (start, stop, step)
    whole = op.SpatialSlice(part, columns) if dimension == 2 else op.SpatialSlice(rows, part)
    return Reading(UnaryRule(whole, hosts=False), (x,))


@reads("aten.pad.default", "aten.constant_pad_nd.default")
def _read_padding(call: Call) -> Reading:
    x = call.operand("self", dimensions=3)
    padding = [*call.arguments["pad"], 0, 0, 0, 0, 0, 0]
    if call.arguments.get("mode", "constant") != "constant":
        raise call.unsupported("only constant padding is supported")
    if min(padding) < 0 or any(padding[6:]):
        raise call.unsupported("it crops, or pads images")
    left, right, top, bottom, before, after = padding[:6]
    value = float(call.arguments["value"] or 0)
    if (before or after) and value:
        raise call.unsupported("only zero channels can be added")
    whole = op.Pad((left, right, top, bottom, before, after), value)
    return Reading(PadRule(whole, x.shape[0]), (x,))


@reads(
    "aten.flatten.using_ints",
    "aten.view.default",
    "aten.reshape.default",
    "aten.squeeze.default",
    "aten.squeeze.dims",
    "aten.unflatten.int",
    "aten.unsqueeze.default",
)
def _read_reshape(call: Call) -> Reading:
    x = call.operand("self" if "self" in call.arguments else "input")
    if x.shape == call.shape:
        return Reading(None, (x,))
    if len(x.shape) == 3 and call.shape == (math.prod(x.shape),):
        pixels = x.shape[1] * x.shape[2]
        if pixels == 1:
            return Reading(UnaryRule(op.Flatten(), hosts=False), (x,))
        return Reading(FlattenRule(pixels), (x,))
    if len(x.shape) == 1 and call.shape == (*x.shape, 1, 1):
        return Reading(UnaryRule(op.Unflatten(), hosts=False), (x,))
    raise call.unsupported(f"it turns the shape {x.shape} into {call.shape}, without the images")
