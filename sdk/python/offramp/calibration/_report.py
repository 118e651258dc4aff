"""What a calibration found: the policy, what is certified of it, and what is only seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import msgspec

from offramp.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offramp.bundle import Certificate, Policy
    from offramp.calibration._promises import Promises

__all__ = ["Alternative", "CalibrationReport", "ClassReport", "ExitReport"]


@final
@dataclass(frozen=True, slots=True)
class ExitReport:
    """One exit under the policy, on the certification images; seen, not certified.

    Attributes:
        exit: Counted from 0.
        images: How many left there.
        share: The same as a share.
        share_low: Lower end of the share's 95 % confidence interval (Clopper and Pearson).
        share_high: Its upper end.
        accuracy: Of the images that left there; ``None`` without labels or images.
        drop: The reference's accuracy on them less this one; ``None`` likewise.
        disagreement: Share of them answered unlike the reference; ``None`` without images.
        distinct_signals: How many different values the exit's signal takes.
    """

    exit: int
    images: int
    share: float
    share_low: float
    share_high: float
    accuracy: float | None
    drop: float | None
    disagreement: float | None
    distinct_signals: int


@final
@dataclass(frozen=True, slots=True)
class ClassReport:
    """One class under the policy, on the certification images.

    Attributes:
        index: The class.
        images: How many are of it.
        early_share: Share of them that leaves early.
        accuracy: Of the policy.
        drop: The reference's accuracy less that.
        drop_at_most: Upper confidence limit of the drop of this class by itself, from the images
            lost alone (Clopper and Pearson); not a statement about all classes together.
    """

    index: int
    images: int
    early_share: float
    accuracy: float
    drop: float
    drop_at_most: float


@final
@dataclass(frozen=True, slots=True)
class Alternative:
    """What can be had when not all promises can be kept together.

    Attributes:
        kept: The promises that this policy keeps, with certificates.
        policy: The policy; ``None`` if a promise cannot even be kept by itself.
        nearest: For each other promise, the smallest limit that the certification images would
            certify. A guide to what to ask for next; not a certificate, since it was read off the
            same images.
    """

    kept: tuple[str, ...]
    policy: Policy | None
    nearest: Mapping[str, float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """The outcome of a calibration.

    Attributes:
        program: ``runtime/precision``.
        promises: What was asked for.
        feasible: Whether a policy was found that keeps all of it. Nothing is ever relaxed.
        policy: That policy, with one certificate per promise; ``None`` if there is none.
        alternatives: If there is none: the best policy for each single side of the promises.
        exits: One entry per exit; empty if there is no policy.
        classes: One entry per class seen; empty without labels or policy.
        minimum_samples: How many images it takes in all to certify these promises if early exit
            changes not one answer.
        warnings: What a reader should know before believing in the policy.
    """

    program: str
    promises: Promises
    feasible: bool
    policy: Policy | None
    alternatives: tuple[Alternative, ...]
    exits: tuple[ExitReport, ...]
    classes: tuple[ClassReport, ...]
    minimum_samples: int
    warnings: tuple[str, ...]

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates of the policy; none if there is no policy."""
        return () if self.policy is None else self.policy.certificates

    def certified(self) -> Policy:
        """The policy, for a caller who cannot go on without one.

        Raises:
            CalibrationError: The promises cannot be kept together; says what could be.
        """
        if self.policy is None:
            raise CalibrationError(self.why_not())
        return self.policy

    def why_not(self) -> str:
        """What could not be certified, and the nearest that could."""
        wishes = " and ".join(
            f"{name} of {_amount(name, getattr(self.promises, name))}"
            for name in self.promises.limited
        )
        found = "; ".join(
            (f"with {' and '.join(other.kept)} kept, " if other.kept else "by itself, ")
            + " and ".join(f"{name} of {_amount(name, v)}" for name, v in other.nearest.items())
            for other in self.alternatives
            if other.nearest
        )
        return (
            f"no policy of {self.program} can be certified to keep {wishes} at "
            f"{self.promises.confidence:.1%} confidence on these images. The nearest that could "
            f"be: {found}. Raise a limit, give more images, or use another program"
        )

    def to_json(self) -> str:
        """All of it as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()


def _amount(name: str, value: float) -> str:
    return f"{value:.4g} ms" if name.endswith("_ms") else f"{value:.2%}"
