"""What a classifier tells, and to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from offramp.policy import Logits

__all__ = ["PredictionLike", "PredictionMonitor"]


class PredictionLike(Protocol):
    """What a monitor reads of a prediction; see ``offramp.Prediction``."""

    @property
    def index(self) -> int:
        """The class answered."""

    @property
    def exit(self) -> int:
        """The exit that answered."""

    @property
    def reason(self) -> str:
        """Why it did."""

    @property
    def policy(self) -> str:
        """The name of the policy that decided."""

    def evidence(self) -> tuple[Logits, float]:
        """The logits of the exit that answered, and the temperature to divide them by."""

    @property
    def stage_ms(self) -> tuple[float, ...]:
        """The time of each stage that ran, in milliseconds."""

    @property
    def total_ms(self) -> float:
        """The time of the whole call, in milliseconds."""


class PredictionMonitor(Protocol):
    """Hears of every prediction of a classifier it was given to.

    Both methods are called from whichever thread predicts.
    """

    def wants_shadow(self) -> bool:
        """Whether the next image should run through all stages, even if an exit answers.

        Asked once for each image, before its first stage, and not for an image with a deadline.
        """

    def record(self, prediction: PredictionLike, shadow_index: int | None = None) -> None:
        """Take note of an answer.

        Args:
            prediction: What the caller of ``predict`` gets.
            shadow_index: The class that the last exit gives, if a shadow was wanted.
        """
