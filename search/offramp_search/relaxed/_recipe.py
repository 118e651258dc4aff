"""How to search with relaxed choices: every number that decides the outcome, in one value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

__all__ = ["RelaxedRecipe"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RelaxedRecipe:
    """How to search with relaxed choices.

    What is not given is as in the released configuration of arXiv 2003.12056 for rotation and
    jigsaw: the softmax has temperature 1, there is no entropy term, and choices stay as they are
    drawn in the first epoch. It makes two passes over ImageNet; over few images take more epochs
    and a larger ``choice_learning_rate``, or the choices hardly move.

    Attributes:
        epochs: Passes over each half of the images.
        batch_size: Images per step, of each half.
        learning_rate: Of the weights at the start; it falls by a cosine, epoch by epoch.
        momentum: Of the weights.
        weight_decay: Of the weights.
        clip_norm: Largest norm of the weights' gradient.
        choice_learning_rate: Of the logits of the choices (Adam, betas 0.5 and 0.999).
        choice_weight_decay: Of the same.
        frozen_epochs: How long the choices stay as they are.
        initial_spread: Standard deviation of the logits at the start.
        temperature: Of the softmax over the choices.
        entropy_weight: Above 0 keeps decisions open, below 0 makes them sure.
        latency_weight: Of the expected latency, as a share of its limit.
        order: 1 or 2, of the gradient for the choices.
    """

    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 3e-5
    clip_norm: float = 5.0
    choice_learning_rate: float = 1.5e-4
    choice_weight_decay: float = 1e-3
    frozen_epochs: float = 1.0
    initial_spread: float = 1e-3
    temperature: float = 1.0
    entropy_weight: float = 0.0
    latency_weight: float = 0.0
    order: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "choice_learning_rate", "temperature", "clip_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {self.order}")

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of the weights in an epoch, counted from 0."""
        return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
