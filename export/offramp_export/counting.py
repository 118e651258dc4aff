"""Multiply-adds and parameters of a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Counted", "count"]


@final
@dataclass(frozen=True, slots=True)
class Counted:
    """What one module costs on paper.

    Attributes:
        multiply_adds: Of convolutions, linear layers and matrix products, for one call.
        parameters: Trainable or not; buffers left out.
    """

    multiply_adds: int
    parameters: int


def count(stage: nn.Module, input_shapes: Sequence[tuple[int, ...]]) -> Counted:
    """Count a module by running it once; it is put into evaluation mode for that time.

    Args:
        stage: The module.
        input_shapes: Torch shapes of its inputs; their batch size counts, so give 1 for the
            multiply-adds of one image.
    """
    device = next((parameter.device for parameter in stage.parameters()), torch.device("cpu"))
    inputs = [torch.zeros(shape, device=device) for shape in input_shapes]
    modes = {module: module.training for module in stage.modules()}
    counter = FlopCounterMode(display=False)
    try:
        stage.eval()
        with torch.no_grad(), counter:
            stage(*inputs)
    finally:
        for module, training in modes.items():
            module.training = training
    # Torch counts a multiplication and an addition as two operations.
    return Counted(
        multiply_adds=counter.get_total_flops() // 2,
        parameters=sum(parameter.numel() for parameter in stage.parameters()),
    )
