"""A stage as an ordinary trainable module."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from offramp_search.spaces import _operators as op
from offramp_search.spaces._steps import LOGITS

if TYPE_CHECKING:
    from offramp_export.network import Preprocess
    from offramp_search.spaces._steps import StagePlan

__all__ = ["Stage"]


@final
class Stage(nn.Module):
    """One stage: ``stage(*carry) -> (logits, *next_carry)``.

    Its layers are named after the base's and run in the order they were added.

    Args:
        plan: What it runs.
        preprocess: The normalisation of the image, for stage 0.
    """

    def __init__(self, plan: StagePlan, preprocess: Preprocess) -> None:
        super().__init__()
        slots = {tensor: slot for slot, tensor in enumerate(plan.carry)}
        self._steps: list[tuple[str, tuple[int, ...]]] = []
        for step in plan.steps:
            name = step.name
            while name in self._modules or hasattr(self, name):
                name += "_"
            module = (
                preprocess if isinstance(step.operator, op.Normalise) else step.operator.module()
            )
            self.add_module(name, module)
            self._steps.append((name, tuple(slots[tensor] for tensor in step.inputs)))
            slots[step.output] = len(slots)
        stage = next(step.output for step in reversed(plan.steps) if step.output[0] == LOGITS)
        self._outputs = tuple(slots[tensor] for tensor in (stage, *plan.next_carry))

    def forward(self, *carry: Tensor) -> tuple[Tensor, ...]:
        """Run the stage on its carry; stage 0 on the image."""
        values = list(carry)
        for name, inputs in self._steps:
            values.append(self._modules[name](*(values[slot] for slot in inputs)))  # type: ignore[misc]
        return tuple(values[slot] for slot in self._outputs)
