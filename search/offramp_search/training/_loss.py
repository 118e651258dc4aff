"""The loss of all exits together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from offramp_search.training._recipe import Recipe

__all__ = ["joint_loss"]


def joint_loss(
    logits: Sequence[Tensor], labels: Tensor, recipe: Recipe, teacher_logits: Tensor | None = None
) -> Tensor:
    r"""Weighted sum over the exits of cross-entropy and distillation.

    .. math:: \sum_s w_s [(1 - \alpha) CE(z_s, y) + \alpha T^2 KL(p_T(t) \| p_T(z_s))]

    with the softmax at temperature T, as in Hinton et al. 2015, section 2. Without a teacher it is
    the cross-entropy alone.

    Args:
        logits: Per exit ``(images, classes)``.
        labels: ``(images,)`` int64.
        recipe: Weights, alpha and temperature.
        teacher_logits: ``(images, classes)``.
    """
    weights = recipe.exit_weights or (1.0,) * len(logits)
    if len(weights) != len(logits):
        raise ValueError(f"the recipe weighs {len(weights)} exits, the network has {len(logits)}")
    total = torch.zeros((), device=labels.device)
    for weight, exit_logits in zip(weights, logits, strict=True):
        loss = functional.cross_entropy(exit_logits, labels, label_smoothing=recipe.label_smoothing)
        if teacher_logits is not None:
            temperature = recipe.distill_temperature
            divergence = functional.kl_div(
                functional.log_softmax(exit_logits / temperature, dim=-1),
                functional.log_softmax(teacher_logits / temperature, dim=-1),
                reduction="batchmean",
                log_target=True,
            )
            alpha = recipe.distill_alpha
            loss = (1 - alpha) * loss + alpha * temperature**2 * divergence
        total = total + weight * loss
    return total
