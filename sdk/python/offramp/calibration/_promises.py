"""What may be promised of a policy, and how the risk of a broken promise is shared out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

from offramp.calibration._inputs import check_fraction
from offramp.errors import CalibrationError

__all__ = ["Levels", "Promises"]

_FRACTIONS = (
    *("accuracy_drop", "early_exit_drop", "class_drop"),
    *("disagreement", "selective_error"),
)
_NEED_LABELS = ("accuracy_drop", "early_exit_drop", "class_drop", "selective_error")
_TIMES = ("mean_ms", "tail_ms")
# Measured latencies are known far better than accuracy, so a small part of the risk is enough.
_LATENCY_SHARE = 0.2


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """Limits that a policy is to keep, all of them together; ``None`` limits nothing.

    Attributes:
        accuracy_drop: Largest drop of accuracy below the reference, a fraction.
        early_exit_drop: The same, among the images that leave early.
        class_drop: The same, in every single class.
        disagreement: Largest share of images that are answered unlike the reference does. Needs no
            labels, and is never below the drop of accuracy.
        mean_ms: Largest mean latency, in milliseconds. Needs no labels.
        tail_ms: Largest latency of all images but a share of ``1 - quantile``, in milliseconds.
            Needs no labels.
        quantile: Of ``tail_ms``.
        cap: How ``tail_ms`` is kept. ``hard``: stages that could end too late never run, the
            exit before them always answers. ``soft``: they run for a few images.
        selective_error: Largest share of wrong answers among those given; unsure ones are
            withheld.
        reference: Whose answers drops and disagreement are counted from: the program's own last
            exit, or the float network.
        confidence: The probability that all promises hold.
    """

    accuracy_drop: float | None = None
    early_exit_drop: float | None = None
    class_drop: float | None = None
    disagreement: float | None = None
    mean_ms: float | None = None
    tail_ms: float | None = None
    quantile: float = 0.99
    cap: Literal["hard", "soft"] = "hard"
    selective_error: float | None = None
    reference: Literal["self", "float"] = "self"
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name in (*_FRACTIONS, "quantile", "confidence"):
            value = getattr(self, name)
            if value is not None:
                check_fraction(name, value)
        for name in _TIMES:
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise CalibrationError(f"{name} must be a time above 0 in ms, got {value}")
        if self.cap not in ("hard", "soft"):
            raise CalibrationError(f"unknown cap {self.cap!r}; expected 'hard' or 'soft'")
        if self.reference not in ("self", "float"):
            raise CalibrationError(
                f"unknown reference {self.reference!r}; expected 'self' or 'float'"
            )
        if not self.limited:
            raise CalibrationError(
                f"nothing is promised; limit at least one of {', '.join((*_FRACTIONS, *_TIMES))}"
            )

    @property
    def limited(self) -> tuple[str, ...]:
        """What is limited, by name."""
        return tuple(name for name in (*_FRACTIONS, *_TIMES) if getattr(self, name) is not None)

    @property
    def needing_labels(self) -> tuple[str, ...]:
        """What can only be promised from labelled images."""
        return tuple(name for name in self.limited if name in _NEED_LABELS)

    @property
    def needing_latency(self) -> tuple[str, ...]:
        """What can only be promised when the time of each stage is known."""
        return tuple(name for name in self.limited if name in _TIMES)

    def levels(self, *, measured: bool) -> Levels:
        """The confidence of each part of the procedure, such that all together have the whole.

        Args:
            measured: Whether latencies are samples, and so uncertain themselves.
        """
        risk = 1.0 - self.confidence
        times = len(self.needing_latency) if measured else 0
        latency = risk * _LATENCY_SHARE if times else 0.0
        walks = 2 if self.selective_error is not None else 1
        walk = (risk - latency) / walks
        return Levels(
            walk=1.0 - walk,
            abstention=1.0 - walk,
            latency=1.0 - latency / times if times else 1.0,
        )


@final
@dataclass(frozen=True, slots=True)
class Levels:
    """Confidences of the parts; by the union bound their risks add up to that of the whole.

    Attributes:
        walk: Of the tests along the candidates.
        abstention: Of the tests along the signals to abstain below.
        latency: Of each statement about latencies alone.
    """

    walk: float
    abstention: float
    latency: float
