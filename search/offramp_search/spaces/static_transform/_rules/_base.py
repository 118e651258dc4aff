"""The interface of a rule: how one family of operators treats labels, cost and weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from offramp.errors import UnsupportedOperatorError
from offramp_search.spaces._steps import Channels
from offramp_search.spaces.static_transform import _labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from offramp_search.spaces._operators import Operator

__all__ = ["Call", "Channels", "Keep", "Operand", "Reading", "Rule", "read_call", "reads"]


class Rule(ABC):
    """What one operator of the base does to labels, what it costs, and what computes a part of it.

    Attributes are set by the implementations, which are frozen dataclasses:

    ``decides``: its output's labels are a decision (convolutions and linear layers).
    ``keeps``: channel c of every operand becomes channel c of the output.
    ``grain``: channels that can only be cut together.
    ``hosts``: an exit may hang on its output. ``continues``: it belongs to the operator before it.
    """

    decides: bool = False
    keeps: bool = False
    grain: int = 1
    hosts: bool = False
    continues: bool = False

    @abstractmethod
    def labels(self, operands: tuple[bytes, ...], decision: bytes) -> bytes:
        """Labels of the output: the earliest stages at which it can be computed."""

    @abstractmethod
    def demand(self, output: bytes, operand: int, labels: bytes, stages: int) -> bytes:
        """When each channel of an operand is first read.

        Args:
            output: Final labels of this operator's output.
            operand: Which operand.
            labels: The operand's labels so far.
            stages: Stages of the network, which is also the label of what is never read.
        """

    @abstractmethod
    def wanted(self, operand: int, channels: Channels) -> Channels | None:
        """The operand's channels that some output channels read; ``None``: all computed so far."""

    @abstractmethod
    def piece(self, channels: Channels, reads: tuple[Channels, ...]) -> Operator | None:
        """What computes some output channels; ``None`` if that is just its one operand.

        Args:
            channels: The output channels.
            reads: For every operand the channels that are given, in the order they are given.
        """

    def at_once(self, channels: Channels, reads: tuple[Channels, ...]) -> Operator | None:
        """What computes all output channels from all channels of the operands."""
        return self.piece(channels, reads)

    def align(self, labels: bytes) -> bytes:
        """Labels with channels that can only be computed together brought together."""
        return labels

    def multiply_adds(self, outputs: int, inputs: int) -> int:
        """Multiply-adds of so many output channels that read so many input channels."""
        return 0

    def parameters(self, outputs: int, inputs: int) -> int:
        """Trainable parameters of the same."""
        return 0

    def state(self) -> Mapping[str, Tensor]:
        """The base's weights, by their names in the module of a piece."""
        return {}

    def load(
        self, module: nn.Module, whole: nn.Module, channels: Channels, reads: tuple[Channels, ...]
    ) -> None:
        """Fill the module of a piece from the module of the whole operator.

        Unless a rule says otherwise every tensor is kept by output channel.
        """
        rows = torch.tensor(channels)
        module.load_state_dict(
            {name: t[rows] if t.ndim else t for name, t in whole.state_dict().items()}
        )


class Keep(Rule, ABC):
    """The label half of rules whose output channel c reads channel c of each operand."""

    keeps = True

    @final
    def labels(self, operands: tuple[bytes, ...], decision: bytes) -> bytes:
        """The later of the operands'."""
        return _labels.latest(*operands)

    @final
    def demand(self, output: bytes, operand: int, labels: bytes, stages: int) -> bytes:
        """When the output is."""
        return output

    @final
    def wanted(self, operand: int, channels: Channels) -> Channels:
        """The same channels."""
        return channels


@final
@dataclass(frozen=True)
class Operand:
    """A tensor that an operator reads: the node that computes it, its shape without the images."""

    node: int
    shape: tuple[int, ...]


@final
@dataclass(frozen=True)
class Call:
    """One call in the exported graph.

    Attributes:
        operator: Such as ``aten.conv2d.default``.
        path: Where in the user's module it is called.
        arguments: By their names in the operator's schema, defaults filled in. Tensors are
            :class:`Operand` if they depend on the image and plain tensors if not.
        shape: Of the output, without the images.
    """

    operator: str
    path: str
    arguments: Mapping[str, Any]
    shape: tuple[int, ...]

    def operand(self, name: str, dimensions: int | None = None) -> Operand:
        """A tensor argument that depends on the image."""
        value = self.arguments[name]
        if not isinstance(value, Operand):
            raise self.unsupported(f"its {name} does not depend on the image")
        if dimensions is not None and len(value.shape) != dimensions:
            raise self.unsupported(
                f"its {name} has shape {value.shape} without the images; "
                f"{dimensions} dimensions are supported"
            )
        return value

    def constant(self, name: str) -> Tensor | None:
        """A tensor argument that does not depend on the image."""
        value = self.arguments[name]
        if value is not None and not isinstance(value, Tensor):
            raise self.unsupported(f"its {name} depends on the image")
        return value

    def unsupported(self, reason: str = "") -> UnsupportedOperatorError:
        """The error that names this operator and where it is called."""
        place = f"module {self.path!r}" if self.path else "the network's own forward"
        detail = f": {reason}" if reason else ""
        return UnsupportedOperatorError(
            f"The static transform has no rule for {self.operator}, called in {place}{detail}; "
            "rewrite that part with convolutions, linear layers, batch norms, activations, "
            "poolings, sums, products and concatenations, or add a rule for it.",
            operator=self.operator,
            module_path=self.path,
        )


@final
@dataclass(frozen=True)
class Reading:
    """What a call was understood as: a rule, or no rule at all if it passes its operand on."""

    rule: Rule | None
    operands: tuple[Operand, ...]


_READERS: dict[str, Callable[[Call], Reading]] = {}


def reads(*operators: str) -> Callable[[Callable[[Call], Reading]], Callable[[Call], Reading]]:
    """Register a function that understands calls of the named ATen operators."""

    def register(reader: Callable[[Call], Reading]) -> Callable[[Call], Reading]:
        for operator in operators:
            if operator in _READERS:
                raise ValueError(f"{operator} has a rule already")
            _READERS[operator] = reader
        return reader

    return register


def read_call(call: Call) -> Reading:
    """Find the rule for a call.

    Raises:
        UnsupportedOperatorError: There is none.
    """
    reader = _READERS.get(call.operator)
    if reader is None:
        raise call.unsupported()
    return reader(call)
