"""How to train: every number that decides the outcome, in one value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

__all__ = ["Recipe"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images per step; the last, incomplete batch of an epoch is left out.
        learning_rate: The largest learning rate of the schedule.
        optimizer: ``sgd`` with Nesterov momentum, or ``adamw``.
        momentum: Of ``sgd``.
        weight_decay: On the weights of convolutions and linear layers only.
        schedule: ``cosine`` falls from the start; ``one_cycle`` rises over the first third of
            the steps and falls to zero; ``constant`` stays.
        warmup_share: Share of the steps over which ``cosine`` and ``constant`` rise from zero.
        label_smoothing: Of the cross-entropy. It makes exits less sure than they are, so leave
            it at zero for networks that exit early.
        horizontal_flip: Mirror half of the images.
        pad_crop: Pad by this many pixels and cut a random window of the old size.
        distill_alpha: Weight of the teacher's answers against the labels', 0 to 1.
        distill_temperature: Softens teacher and student alike.
        exit_weights: Weight of each exit's loss; ``None`` weighs all alike.
        clip_norm: Largest norm of the gradient; ``None`` leaves it alone.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.05
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    warmup_share: float = 0.0
    label_smoothing: float = 0.0
    horizontal_flip: bool = False
    pad_crop: int = 0
    distill_alpha: float = 0.5
    distill_temperature: float = 3.0
    exit_weights: tuple[float, ...] | None = None
    clip_norm: float | None = 5.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "distill_temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("momentum", "warmup_share", "label_smoothing", "distill_alpha"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.weight_decay < 0 or self.pad_crop < 0:
            raise ValueError("weight_decay and pad_crop must not be negative")
        if self.exit_weights is not None and not all(weight >= 0 for weight in self.exit_weights):
            raise ValueError(f"exit_weights must not be negative, got {self.exit_weights}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}")

    @property
    def augments(self) -> bool:
        """Whether an image looks different from one epoch to the next."""
        return self.horizontal_flip or self.pad_crop > 0

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step: a pure function, so that resuming needs no more.

        Args:
            step: Counted from 0.
            steps: Steps of the whole training.
        """
        done = (step + 0.5) / steps
        if self.schedule == "one_cycle":
            rise = 1 / 3
            factor = done / rise if done < rise else _half_cosine((done - rise) / (1 - rise))
        elif done < self.warmup_share:
            factor = done / self.warmup_share
        elif self.schedule == "cosine":
            factor = _half_cosine((done - self.warmup_share) / (1 - self.warmup_share))
        else:
            factor = 1.0
        return self.learning_rate * factor


def _half_cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2
