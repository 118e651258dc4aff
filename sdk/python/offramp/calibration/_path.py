"""Candidate policies in one order, from the safest to the most aggressive.

The order is fixed before the certification images are looked at; that is what lets one test after
the other be made on them without a correction for making many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CandidatePath", "candidate_path", "enable_used", "round_up"]

# Half of the candidates are spread evenly over the images, half with a constant ratio, so that the
# first steps away from "no early exit" are single images.
_CANDIDATES = 200


@final
@dataclass(frozen=True, slots=True, eq=False)
class CandidatePath:
    """Thresholds of the early exits, falling from candidate to candidate.

    Along the path thresholds never rise and an exit once enabled stays enabled, so no image leaves
    later under a later candidate.

    Attributes:
        thresholds: ``(candidates, early exits)`` float64, each exactly a float32.
        enabled: ``(candidates, early exits)`` bool; none is enabled in the first candidate.
    """

    thresholds: NDArray[np.float64]
    enabled: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.thresholds)

    def exits(self, candidate: int, signals: NDArray[np.float64]) -> NDArray[np.int64]:
        """The exit each image leaves at under one candidate.

        Args:
            candidate: Its place on the path.
            signals: ``(early exits, images)`` float64.

        Returns:
            ``(images,)`` int64.
        """
        return _exits(signals, self.thresholds[candidate], self.enabled[candidate])


def candidate_path(signals: NDArray[np.float64]) -> CandidatePath:
    """Build the path of one threshold shared by all exits, from the images set aside for it.

    Thresholds lie halfway between two neighbouring signals that were seen, rounded up to float32:
    an image of this set is then never on the edge, where the last bit of an exponential would
    decide, and a threshold is the same number in every binding. An exit is enabled from the first
    candidate on under which an image of this set leaves there; an exit where none ever does would
    be looked at for nothing.

    Args:
        signals: ``(early exits, images)`` float64 between 0 and 1, at the temperatures chosen.
    """
    early = signals.shape[0]
    seen = np.unique(signals)[::-1]
    middles = (seen[:-1] + seen[1:]) / 2.0
    # Below the last signal: the candidate under which every image of this set leaves at exit 0.
    middles = np.append(middles, 0.0) if seen.size else middles
    ranks = np.unique(
        np.concatenate(
            [
                np.geomspace(1, max(len(middles), 1), _CANDIDATES // 2),
                np.linspace(1, max(len(middles), 1), _CANDIDATES // 2),
            ]
        ).round()
    ).astype(np.int64)
    thresholds = round_up(middles[ranks[ranks <= len(middles)] - 1])
    # Rounding may close the gap to the signal above: then nobody new leaves, and two are one.
    thresholds = np.unique(thresholds)[::-1]
    shared = np.repeat(thresholds[:, np.newaxis], early, axis=1)
    return enable_used(shared, np.ones(shared.shape, dtype=np.bool_), signals)


def enable_used(
    thresholds: NDArray[np.float64], allowed: NDArray[np.bool_], signals: NDArray[np.float64]
) -> CandidatePath:
    """Put "no early exit" first, and enable each exit from when an image of this set leaves there.

    Args:
        thresholds: ``(candidates, early exits)`` float64, without that first candidate.
        allowed: ``(candidates, early exits)`` bool, which exits may be enabled.
        signals: ``(early exits, images)`` float64.
    """
    early = signals.shape[0]
    enabled = np.zeros((len(thresholds) + 1, early), dtype=np.bool_)
    for candidate, (levels, may) in enumerate(zip(thresholds, allowed, strict=True), start=1):
        used = np.bincount(_exits(signals, levels, may), minlength=early + 1)[:early] > 0
        enabled[candidate] = enabled[candidate - 1] | used
    return CandidatePath(
        thresholds=np.concatenate([np.ones((1, early)), thresholds]), enabled=enabled
    )


def _exits(
    signals: NDArray[np.float64], thresholds: NDArray[np.float64], enabled: NDArray[np.bool_]
) -> NDArray[np.int64]:
    answering = (signals >= thresholds[:, np.newaxis]) & enabled[:, np.newaxis]
    last = np.ones((1, signals.shape[1]), dtype=np.bool_)
    result: NDArray[np.int64] = np.concatenate([answering, last]).argmax(axis=0)
    return result


def round_up(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value as a float32 that is not below it, held as float64."""
    rounded = values.astype(np.float32)
    above = np.nextafter(rounded, np.float32(2.0))
    return np.where(rounded < values, above, rounded).astype(np.float64)
