"""Convolutions and linear layers: the operators whose output labels are decisions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from offramp_search.spaces import _operators as op
from offramp_search.spaces.static_transform import _labels
from offramp_search.spaces.static_transform._rules._base import Call, Channels, Reading, Rule, reads

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DenseRule", "GroupedRule"]


@final
@dataclass(frozen=True)
class DenseRule(Rule):
    """Every output channel reads all input channels that are labelled no later.

    A stage concatenates what it reads and computes its outputs with one operator, or sums over one
    operator for each stage that it reads from; the planner decides.

    Args:
        whole: The operator with all channels.
        pixels: Positions it is computed at.
        weight: The base's.
        bias: The base's.
    """

    whole: op.Convolution | op.Linear
    pixels: int
    weight: Tensor
    bias: Tensor | None

    decides = True
    hosts = True

    def labels(self, operands: tuple[bytes, ...], decision: bytes) -> bytes:
        """The decision, but no earlier than there is anything to read."""
        return decision.translate(_labels.not_before(min(operands[0])))

    def demand(self, output: bytes, operand: int, labels: bytes, stages: int) -> bytes:
        """When the first output labelled no earlier is computed."""
        return labels.translate(_labels.read_at(output, stages))

    def wanted(self, operand: int, channels: Channels) -> Channels | None:
        """All channels so far."""
        return None

    def piece(self, channels: Channels, reads: tuple[Channels, ...]) -> op.Operator:
        """The same operator with fewer channels."""
        inputs, outputs = len(reads[0]), len(channels)
        whole = self.whole
        if isinstance(whole, op.Linear):
            return op.Linear(inputs, outputs, whole.bias)
        return op.Convolution(
            inputs,
            outputs,
            whole.kernel,
            whole.stride,
            whole.padding,
            whole.dilation,
            1,
            whole.bias,
        )

    def multiply_adds(self, outputs: int, inputs: int) -> int:
        """Positions times kernel size times channels."""
        return self.pixels * outputs * inputs * self._window

    def parameters(self, outputs: int, inputs: int) -> int:
        """Weights and biases."""
        return outputs * (inputs * self._window + (1 if self.whole.bias else 0))

    def state(self) -> Mapping[str, Tensor]:
        """Weight and bias."""
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def load(
        self, module: nn.Module, whole: nn.Module, channels: Channels, reads: tuple[Channels, ...]
    ) -> None:
        """Rows by output channel, columns by input channel."""
        rows, columns = torch.tensor(channels), torch.tensor(reads[0])
        source = whole.state_dict()
        state = {"weight": source["weight"][rows][:, columns]}
        if "bias" in source and getattr(module, "bias", None) is not None:  # or another part has it
            state["bias"] = source["bias"][rows]
        module.load_state_dict(state)

    @property
    def _window(self) -> int:
        return 1 if isinstance(self.whole, op.Linear) else math.prod(self.whole.kernel)


@final
@dataclass(frozen=True)
class GroupedRule(Rule):
    """A convolution in groups, depthwise above all: each group follows the channels it reads.

    Args:
        whole: The operator with all channels.
        pixels: Positions it is computed at.
        weight: The base's.
        bias: The base's.
    """

    whole: op.Convolution
    pixels: int
    weight: Tensor
    bias: Tensor | None

    hosts = True

    @property
    def keeps(self) -> bool:  # type: ignore[override]
        """Where inputs and outputs are as many, their groups coincide."""
        return self.whole.inputs == self.whole.outputs

    @property
    def grain(self) -> int:  # type: ignore[override]
        """The inputs of one group."""
        return self.whole.inputs // self.whole.groups

    def labels(self, operands: tuple[bytes, ...], decision: bytes) -> bytes:
        """The latest of the inputs of the group."""
        labels, size = operands[0], self.grain
        if size == 1 and self.keeps:
            return labels
        return bytes(
            max(labels[start : start + size])
            for start in range(0, len(labels), size)
            for _ in range(self._outputs)
        )

    def demand(self, output: bytes, operand: int, labels: bytes, stages: int) -> bytes:
        """When the group is computed."""
        if self.grain == 1 and self.keeps:
            return output
        return bytes(label for label in output[:: self._outputs] for _ in range(self.grain))

    def align(self, labels: bytes) -> bytes:
        """A group is computed when the first of its outputs is needed."""
        size = self._outputs
        if size == 1:
            return labels
        return bytes(
            min(labels[start : start + size])
            for start in range(0, len(labels), size)
            for _ in range(size)
        )

    def wanted(self, operand: int, channels: Channels) -> Channels:
        """The inputs of the groups."""
        if self.grain == 1 and self.keeps:
            return channels
        groups = [channel // self._outputs for channel in channels[:: self._outputs]]
        return tuple(
            channel
            for group in groups
            for channel in range(group * self.grain, (group + 1) * self.grain)
        )

    def piece(self, channels: Channels, reads: tuple[Channels, ...]) -> op.Operator:
        """The same operator with fewer groups."""
        whole = self.whole
        return op.Convolution(
            len(reads[0]),
            len(channels),
            whole.kernel,
            whole.stride,
            whole.padding,
            whole.dilation,
            len(channels) // self._outputs,
            whole.bias,
        )

    def multiply_adds(self, outputs: int, inputs: int) -> int:
        """Positions times kernel size times channels times the inputs of a group."""
        return self.pixels * outputs * self.grain * math.prod(self.whole.kernel)

    def parameters(self, outputs: int, inputs: int) -> int:
        """Weights and biases."""
        window = math.prod(self.whole.kernel)
        return outputs * (self.grain * window + (1 if self.whole.bias else 0))

    def state(self) -> Mapping[str, Tensor]:
        """Weight and bias."""
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    @property
    def _outputs(self) -> int:
        return self.whole.outputs // self.whole.groups


def _pair(value: list[int]) -> tuple[int, int]:
    return (value[0], value[-1])


@reads("aten.conv2d.default", "aten.conv2d.padding")
def _read_convolution(call: Call) -> Reading:
    x = call.operand("input", dimensions=3)
    weight, bias = call.constant("weight"), call.constant("bias")
    if weight is None:
        raise call.unsupported("it has no weight")
    kernel = (weight.shape[2], weight.shape[3])
    dilation = _pair(call.arguments["dilation"])
    padding = call.arguments["padding"]
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        around = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(total % 2 for total in around):
            raise call.unsupported("its 'same' padding is not symmetric")
        padding = [total // 2 for total in around]
    groups = call.arguments["groups"]
    whole = op.Convolution(
        x.shape[0],
        weight.shape[0],
        kernel,
        _pair(call.arguments["stride"]),
        _pair(padding),
        dilation,
        groups,
        bias is not None,
    )
    rule = DenseRule if groups == 1 else GroupedRule
    return Reading(rule(whole, call.shape[1] * call.shape[2], weight, bias), (x,))


@reads("aten.linear.default")
def _read_linear(call: Call) -> Reading:
    x = call.operand("input", dimensions=1)
    weight, bias = call.constant("weight"), call.constant("bias")
    if weight is None:
        raise call.unsupported("it has no weight")
    whole = op.Linear(weight.shape[1], weight.shape[0], bias is not None)
    return Reading(DenseRule(whole, 1, weight, bias), (x,))
