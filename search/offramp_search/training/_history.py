"""What training reports while it runs and when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["EpochRecord", "History", "TrainingProgress"]


@final
@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a training is.

    Attributes:
        epoch: Counted from 0.
        epochs: In all.
        step: Steps done, over all epochs.
        steps: In all.
        loss: Mean over this epoch so far.
        exit_accuracies: Per exit, on the training images of this epoch so far.
        images_per_second: Since this process started training.
        eta_s: Seconds to go at that speed.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    exit_accuracies: tuple[float, ...]
    images_per_second: float
    eta_s: float


@final
@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One finished epoch; accuracies are those on the (augmented) training images."""

    loss: float
    exit_accuracies: tuple[float, ...]
    images_per_second: float


@final
@dataclass(frozen=True, slots=True)
class History:
    """All finished epochs, also those before a training was resumed."""

    epochs: tuple[EpochRecord, ...]
