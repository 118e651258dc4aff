"""Batch norms, activations, sums and products: channel c reads channel c of every operand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from offramp_search.spaces import _operators as op
from offramp_search.spaces.static_transform._rules._base import (
    Call,
    Channels,
    Keep,
    Operand,
    Reading,
    reads,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BatchNormRule", "SumRule", "UnaryRule"]


@final
@dataclass(frozen=True)
class BatchNormRule(Keep):
    """Batch normalisation.

    Args:
        whole: The operator with all channels.
        tensors: The base's weights and statistics.
    """

    whole: op.BatchNorm
    tensors: Mapping[str, Tensor]

    hosts = True
    continues = True

    def piece(self, channels: Channels, reads: tuple[Channels, ...]) -> op.Operator:
        """The same with fewer channels."""
        whole = self.whole
        return op.BatchNorm(
            len(channels), whole.dimensions, whole.epsilon, whole.momentum, whole.affine
        )

    def parameters(self, outputs: int, inputs: int) -> int:
        """Weights and biases; statistics are not trained."""
        return 2 * outputs if self.whole.affine else 0

    def state(self) -> Mapping[str, Tensor]:
        """Weights and statistics."""
        return self.tensors


@final
@dataclass(frozen=True)
class UnaryRule(Keep):
    """An operator of one operand whose parts are the operator itself: activations, poolings.

    Args:
        operator: The operator.
        hosts: Whether an exit may hang on its output.
    """

    operator: op.Operator
    hosts: bool = True

    @property
    def continues(self) -> bool:  # type: ignore[override]
        """An exit that hangs here would rather hang after an activation than before."""
        return self.hosts

    def piece(self, channels: Channels, reads: tuple[Channels, ...]) -> op.Operator:
        """The operator itself."""
        return self.operator


@final
@dataclass(frozen=True)
class SumRule(Keep):
    """A sum or a product of several operands.

    Args:
        operator: The operator.
    """

    operator: op.Add | op.Multiply

    hosts = True

    def piece(self, channels: Channels, reads: tuple[Channels, ...]) -> op.Operator:
        """The operator itself."""
        return self.operator


@reads("aten.batch_norm.default")
def _read_batch_norm(call: Call) -> Reading:
    x = call.operand("input")
    if len(x.shape) not in (1, 3):
        raise call.unsupported(f"its input has shape {x.shape} without the images")
    mean, variance = call.constant("running_mean"), call.constant("running_var")
    weight, bias = call.constant("weight"), call.constant("bias")
    if mean is None or variance is None:
        raise call.unsupported("it keeps no running statistics")
    tensors = {
        "running_mean": mean,
        "running_var": variance,
        "num_batches_tracked": torch.tensor(0),
    }
    if weight is not None and bias is not None:
        tensors |= {"weight": weight, "bias": bias}
    whole = op.BatchNorm(
        x.shape[0],
        len(x.shape) - 1,
        call.arguments["eps"],
        call.arguments["momentum"],
        weight is not None,
    )
    return Reading(BatchNormRule(whole, tensors), (x,))


# ATen operator without its in-place underscore -> torch's module, argument names of both.
_ACTIVATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "aten.elu.default": ("ELU", {"alpha": "alpha"}),
    "aten.gelu.default": ("GELU", {"approximate": "approximate"}),
    "aten.hardsigmoid.default": ("Hardsigmoid", {}),
    "aten.hardswish.default": ("Hardswish", {}),
    "aten.hardtanh.default": ("Hardtanh", {"min_val": "min_val", "max_val": "max_val"}),
    "aten.leaky_relu.default": ("LeakyReLU", {"negative_slope": "negative_slope"}),
    "aten.mish.default": ("Mish", {}),
    "aten.relu.default": ("ReLU", {}),
    "aten.relu6.default": ("ReLU6", {}),
    "aten.sigmoid.default": ("Sigmoid", {}),
    "aten.silu.default": ("SiLU", {}),
    "aten.tanh.default": ("Tanh", {}),
}


@reads(*_ACTIVATIONS, *(name.replace(".default", "_.default") for name in _ACTIVATIONS))
def _read_activation(call: Call) -> Reading:
    x = next(value for value in call.arguments.values() if isinstance(value, Operand))
    name, names = _ACTIVATIONS[call.operator.replace("_.default", ".default")]
    arguments = {ours: call.arguments[theirs] for ours, theirs in names.items()}
    if name == "Hardtanh" and tuple(arguments.values()) == (0, 6):
        name, arguments = "ReLU6", {}
    return Reading(UnaryRule(op.Activation(name, tuple(arguments.items()))), (x,))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@reads(
    "aten.add.Tensor",
    "aten.add_.Tensor",
    "aten.sub.Tensor",
    "aten.sub_.Tensor",
    "aten.mul.Tensor",
    "aten.mul_.Tensor",
    "aten.div.Tensor",
    "aten.div_.Tensor",
)
def _read_arithmetic(call: Call) -> Reading:
    first, second = call.operand("self"), call.arguments["other"]
    kind = call.operator.split(".")[1].rstrip("_")
    if _is_number(second):
        factor = call.arguments.get("alpha", 1)
        scale, offset = {
            "add": (1.0, float(second * factor)),
            "sub": (1.0, -float(second * factor)),
            "mul": (float(second), 0.0),
            "div": (1 / second if second else 0.0, 0.0),
        }[kind]
        if scale == 0:
            raise call.unsupported("it divides or multiplies by zero")
        return Reading(UnaryRule(op.Scalar(scale, offset)), (first,))
    second = call.operand("other")
    if kind not in ("add", "mul") or call.arguments.get("alpha", 1) != 1:
        raise call.unsupported("of two tensors only plain sums and products are supported")
    if not first.shape[0] == second.shape[0] == call.shape[0]:
        raise call.unsupported(
            f"its operands have {first.shape[0]} and {second.shape[0]} channels; "
            "only rows and columns may be broadcast"
        )
    return Reading(SumRule(op.Add() if kind == "add" else op.Multiply()), (first, second))
