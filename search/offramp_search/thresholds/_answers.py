"""What every exit answers on one split, and what thresholds make of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.errors import DataError, ShapeError
from offramp.policy import probabilities, signal_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Answers", "Outcome"]


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the images leave, as counts, so that equal outcomes compare equal.

    Attributes:
        correct: Images answered correctly.
        counts: Images that leave at each exit.
        mean_ms: Mean latency per image, in milliseconds.
    """

    correct: int
    counts: tuple[int, ...]
    mean_ms: float

    def better_than(self, other: Outcome) -> bool:
        """More images right, or as many in less time."""
        return (self.correct, -self.mean_ms) > (other.correct, -other.mean_ms)


@final
@dataclass(frozen=True, slots=True)
class Answers:
    """Signals and right answers of every exit on one split.

    Attributes:
        signals: ``(exits - 1, images)`` float64; the last exit needs none.
        correct: ``(exits, images)`` bool.
        cumulative_ms: ``(exits,)`` float64, latency of an image that leaves at each exit.
    """

    signals: NDArray[np.float64]
    correct: NDArray[np.bool_]
    cumulative_ms: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        logits: ArrayLike,
        labels: ArrayLike,
        stage_ms: Sequence[float],
        signal: str,
        temperatures: Sequence[float] | None,
    ) -> Answers:
        """Apply the runtime's own softmax and signal to the logits of every exit.

        Raises:
            ShapeError: The arrays do not fit together.
            DataError: There is no image, or a logit or latency is not finite.
        """
        array = np.asarray(logits)
        truth = np.asarray(labels)
        if array.ndim != 3 or truth.shape != array.shape[1:2] or array.shape[2] < 2:
            raise ShapeError(
                f"got logits of shape {array.shape} and labels of shape {truth.shape}; expected "
                "(exits, images, classes) with at least two classes, and (images,)"
            )
        exits = array.shape[0]
        scales = (1.0,) * exits if temperatures is None else tuple(temperatures)
        if len(stage_ms) != exits or len(scales) != exits:
            raise ShapeError(
                f"got logits of {exits} exits, {len(stage_ms)} stage latencies and "
                f"{len(scales)} temperatures; give one of each per exit"
            )
        if array.shape[1] == 0:
            raise DataError("got no image to solve the thresholds on; give at least one")
        if not np.isfinite(array).all():
            raise DataError(
                "some logits are not finite, so their exit has no answer; check the training"
            )
        if not all(math.isfinite(ms) and ms >= 0 for ms in stage_ms):
            raise DataError(f"stage latencies must be finite and not negative, got {stage_ms}")
        return cls.timed(
            signals=np.stack(
                [
                    signal_values(probabilities(array[exit], scales[exit]), signal)
                    for exit in range(exits - 1)
                ]
            )
            if exits > 1
            else np.empty((0, array.shape[1])),
            correct=array.argmax(axis=2) == truth,
            stage_ms=stage_ms,
        )

    @classmethod
    def timed(
        cls,
        signals: NDArray[np.float64],
        correct: NDArray[np.bool_],
        stage_ms: Sequence[float],
    ) -> Answers:
        """The answers of exits whose stages take so long."""
        return cls(signals, correct, np.cumsum(np.asarray(stage_ms, dtype=np.float64)))

    @property
    def exits(self) -> int:
        """How many exits there are."""
        return len(self.correct)

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.correct[0])

    def leave(self, thresholds: Sequence[float]) -> NDArray[np.int64]:
        """The exit each image leaves at, by the exit rule; ``inf`` disables an exit.

        Args:
            thresholds: One per exit but the last.
        """
        chosen = np.full(self.images, self.exits - 1, dtype=np.int64)
        for exit in reversed(range(self.exits - 1)):
            chosen[self.signals[exit] >= thresholds[exit]] = exit
        return chosen

    def right(self, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which images are answered correctly when each leaves at its ``(images,)`` exit."""
        result: NDArray[np.bool_] = self.correct[chosen, np.arange(self.images)]
        return result

    def mean_ms(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean latency from ``(..., exits)`` counts of images."""
        result: NDArray[np.float64] = counts @ self.cumulative_ms / self.images
        return result

    def outcome(self, thresholds: Sequence[float]) -> Outcome:
        """What thresholds, one per exit but the last, make of the split."""
        chosen = self.leave(thresholds)
        counts = np.bincount(chosen, minlength=self.exits)
        return Outcome(
            correct=int(self.right(chosen).sum()),
            counts=tuple(counts.tolist()),
            mean_ms=float(self.mean_ms(counts)),
        )
