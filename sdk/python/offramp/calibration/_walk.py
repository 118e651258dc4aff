"""The order in which candidates are tested, and the walk along it.

The order is fixed by the images set aside for it. Candidates are tested one after the other on the
others, each promise at the full level, and the walk ends at the first candidate that fails in any.
The first candidate that truly breaks a promise passes with at most that probability, and nothing
behind it is reached otherwise, so no correction is due for the number of candidates (fixed-sequence
testing: Angelopoulos et al. 2021, arXiv 2110.01052, section 2.3) or of promises
(intersection-union; Laufer-Goldshtein et al. 2022, arXiv 2210.07913, for promises that pull in
opposite directions).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from offramp.calibration._path import CandidatePath
    from offramp.calibration._quantity import Quantity

__all__ = ["candidate_order", "choose", "walk"]


def candidate_order(
    path: CandidatePath, quantities: Sequence[Quantity], signals: NDArray[np.float64]
) -> list[int]:
    """The candidates to test, in order.

    If all promises are safest without early exits, it starts there; if all are safest with the
    earliest, there. Where they pull in opposite directions, or are made for the images that leave
    early, of which the first candidates have hardly any, it starts with the candidate that keeps
    its promises by the most standard errors and goes down to those that just do.

    Args:
        path: The candidates.
        quantities: What is promised, for the images the path was built from.
        signals: ``(early exits, images)`` of the same images.
    """
    faster = [quantity.faster_is_safer for quantity in quantities]
    about_early = any(isinstance(q.groups, str) and q.groups == "early" for q in quantities)
    if not about_early and not any(faster):
        return list(range(len(path)))
    if not about_early and all(faster):
        return list(reversed(range(len(path))))
    margins = np.array(
        [
            min(quantity.margin(path.exits(candidate, signals)) for quantity in quantities)
            for candidate in range(len(path))
        ]
    )
    ranked = np.argsort(-margins, kind="stable")
    return [int(candidate) for candidate in ranked if margins[candidate] > 0.0]


def walk(
    path: CandidatePath,
    order: Sequence[int],
    quantities: Sequence[Quantity],
    signals: NDArray[np.float64],
    confidence: float,
) -> list[int]:
    """The candidates that keep all promises, as far as the walk gets.

    A candidate without early exits keeps what is free at the last exit by definition; it needs no
    test and ends no walk.

    Args:
        path: The candidates.
        order: From ``candidate_order``.
        quantities: What is promised, for the certification images in the order of the test.
        signals: ``(early exits, images)`` of the same images.
        confidence: Of each test.
    """
    certified = []
    for candidate in order:
        exits = path.exits(candidate, signals)
        none_early = not path.enabled[candidate].any()
        if not all(
            (none_early and quantity.free) or quantity.certified(exits, confidence)
            for quantity in quantities
        ):
            break
        certified.append(candidate)
    if 0 not in certified and all(quantity.free for quantity in quantities):
        certified.append(0)
    return certified


def choose(certified: Sequence[int], quantities: Sequence[Quantity]) -> int:
    """The candidate to take of those certified.

    The one that stops earliest, which is the last on the path; but the one that stops latest if
    all promises are about time, so that as little accuracy as possible is spent.

    Args:
        certified: At least one candidate.
        quantities: What is promised.
    """
    if all(quantity.faster_is_safer for quantity in quantities):
        return min(certified)
    return max(certified)
