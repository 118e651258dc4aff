"""Below which signal answers are withheld, so that those given are wrong rarely enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.calibration._binomial import certifies_rate, smallest_rate
from offramp.calibration._path import round_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Abstention", "find_abstention"]

_CANDIDATES = 200


@final
@dataclass(frozen=True, slots=True)
class Abstention:
    """A signal to abstain below, and what the certification images say of it.

    Attributes:
        below: The signal.
        certified: Whether the limit is kept; if not, ``below`` is where the walk began.
        answered: Images whose answer is given.
        images: Images in all.
        wrong: Wrong answers among those given.
        smallest: The smallest limit that would be certified there.
    """

    below: float
    certified: bool
    answered: int
    images: int
    wrong: int
    smallest: float


def find_abstention(
    fit: tuple[NDArray[np.float64], NDArray[np.bool_]],
    certify: tuple[NDArray[np.float64], NDArray[np.bool_]],
    limit: float,
    confidence: float,
) -> Abstention:
    """Find the smallest signal to abstain below at which the error of the answers is certified.

    The candidates lie between signals of the fit images. The walk begins at the one whose error
    there is below the limit by the most standard errors, and goes down, to more answers, until the
    exact binomial test on the other images fails. Given which of these are answered, the wrong
    ones among them are binomial, so each test has its level; the order was fixed beforehand, so
    their number needs no correction (selective risk of Geifman and El-Yaniv 2017, arXiv
    1705.08500, by the fixed-sequence test of Angelopoulos et al. 2021, arXiv 2110.01052).

    Args:
        fit: Signals ``(images,)`` and whether the answers are right ``(images,)``, at the exits
            the images leave at, of the images set aside.
        certify: The same of the certification images.
        limit: The largest share of wrong answers among those given.
        confidence: Of each test.
    """
    candidates = _candidates(*fit, limit)
    signals, right = certify

    def look(below: float) -> Abstention:
        given = signals >= below
        answered = int(given.sum())
        wrong = answered - int(right[given].sum())
        kept = certifies_rate(wrong, answered, limit, confidence)
        smallest = smallest_rate(wrong, answered, confidence)
        return Abstention(below, kept, answered, len(signals), wrong, smallest)

    found = look(float(candidates[0]))
    for below in candidates[1:].tolist():
        following = look(below)
        if not (found.certified and following.certified):
            break
        found = following
    return found


def _candidates(
    signals: NDArray[np.float64], right: NDArray[np.bool_], limit: float
) -> NDArray[np.float64]:
    """Signals to abstain below, falling from the safest one to 0."""
    order = np.argsort(-signals, kind="stable")
    falling, wrong = signals[order], np.cumsum(~right[order])
    ends = np.unique(np.linspace(0, len(order) - 1, _CANDIDATES).round().astype(np.int64))
    answered, wrong = ends + 1, wrong[ends]
    # As if half a wrong answer more had been seen, so that a few right ones are not certainty.
    error = (wrong + 0.5) / (answered + 1.0)
    margins = (limit - error) / np.sqrt(error * (1.0 - error) / answered)
    start = int(np.argmax(margins))
    below = np.append(falling[1:], 0.0)[ends]
    thresholds = round_up((falling[ends] + below) / 2.0)
    # The last one answers every image, also those less sure than any of this set.
    thresholds[-1] = 0.0
    return np.unique(thresholds[start:])[::-1]
