"""Channel shuffles: channels brought into groups, the groups transposed, and joined again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp_search.spaces import _operators as op
from offramp_search.spaces.static_transform._rules._base import (
    Call,
    Channels,
    Operand,
    Reading,
    Rule,
    reads,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Arranged", "ShuffleRule", "arrange"]


@final
@dataclass(frozen=True)
class ShuffleRule(Rule):
    """Channels in another order; no operator at all, since they are stored in any order.

    Args:
        order: For each output channel the input channel that it is.
    """

    order: Channels

    def labels(self, operands: tuple[bytes, ...], decision: bytes) -> bytes:
        """The operand's, moved along."""
        return bytes(operands[0][channel] for channel in self.order)

    def demand(self, output: bytes, operand: int, labels: bytes, stages: int) -> bytes:
        """When the output is, moved back."""
        moved = bytearray(len(self.order))
        for channel, label in zip(self.order, output, strict=True):
            moved[channel] = label
        return bytes(moved)

    def wanted(self, operand: int, channels: Channels) -> Channels:
        """The channels that they are."""
        return tuple(self.order[channel] for channel in channels)

    def piece(self, channels: Channels, reads: tuple[Channels, ...]) -> None:
        """Nothing to do: what is wanted is given."""
        return

    def at_once(self, channels: Channels, reads: tuple[Channels, ...]) -> op.Operator:
        """The shuffle."""
        return op.Reorder(self.order)


@final
@dataclass(frozen=True, eq=False)
class Arranged:
    """A tensor whose channels lie in several dimensions, in the middle of a shuffle.

    Attributes:
        operand: The tensor it is made of.
        channels: The number of each channel, in the shape that they lie in.
    """

    operand: Operand
    channels: NDArray[np.int64]


_RESHAPES = (
    "aten.view.default",
    "aten.reshape.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
)
_COPIES = ("aten.clone.default", "aten.contiguous.default", "aten.alias.default")


def arrange(call: Call) -> Arranged | Reading | None:
    """Understand one step of a shuffle; ``None`` if the call is none.

    Raises:
        UnsupportedOperatorError: Something else is done to channels in several dimensions.
    """
    given = next((v for v in call.arguments.values() if isinstance(v, Arranged | Operand)), None)
    if any(isinstance(value, Arranged) for value in call.arguments.values()):
        assert isinstance(given, Arranged)
        found = _go_on(call, given)
        if found is None:
            raise call.unsupported(
                "channels that were brought into groups can only be transposed and joined again"
            )
        return found
    if isinstance(given, Operand) and call.operator in _RESHAPES:
        channels, rest = given.shape[0], given.shape[1:]
        lead = call.shape[: len(call.shape) - len(rest)]
        apart = len(lead) > 1 and math.prod(lead) == channels and call.shape[len(lead) :] == rest
        # (features, 1, 1) is no group of channels, but a map of one pixel.
        if apart and (rest or call.shape[1:] != (1, 1)):
            return Arranged(given, np.arange(channels).reshape(lead))
    return None


def _go_on(call: Call, given: Arranged) -> Arranged | Reading | None:
    groups, rest = given.channels.ndim, given.operand.shape[1:]
    dimensions = 1 + groups + len(rest)
    if call.operator in _COPIES:
        return given
    if call.operator == "aten.transpose.int":
        axes = list(range(dimensions))
        first, second = (call.arguments[name] % dimensions for name in ("dim0", "dim1"))
        axes[first], axes[second] = axes[second], axes[first]
        return _transpose(given, axes)
    if call.operator == "aten.permute.default":
        return _transpose(given, [axis % dimensions for axis in call.arguments["dims"]])
    if call.operator in _RESHAPES and call.shape[len(call.shape) - len(rest) :] == rest:
        lead = call.shape[: len(call.shape) - len(rest)]
        if math.prod(lead) != given.channels.size or not lead:
            return None
        channels = given.channels.reshape(lead)
        if channels.ndim > 1:
            return Arranged(given.operand, channels)
        return _shuffled(given.operand, tuple(int(channel) for channel in channels))
    return None


def _transpose(given: Arranged, axes: list[int]) -> Arranged | None:
    groups = given.channels.ndim
    inner, outer = axes[1 : groups + 1], [axes[0], *axes[groups + 1 :]]
    if outer != [0, *range(groups + 1, len(axes))]:
        return None
    return Arranged(given.operand, given.channels.transpose([axis - 1 for axis in inner]))


def _shuffled(operand: Operand, order: Channels) -> Reading:
    same = order == tuple(range(len(order)))
    return Reading(None if same else ShuffleRule(order), (operand,))


@reads("aten.channel_shuffle.default")
def _read_shuffle(call: Call) -> Reading:
    x = call.operand("self")
    order = np.arange(x.shape[0]).reshape(call.arguments["groups"], -1).T.reshape(-1)
    return _shuffled(x, tuple(int(channel) for channel in order))
