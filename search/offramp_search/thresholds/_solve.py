"""The best thresholds for a latency limit, and the whole trade of accuracy against latency."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.errors import InfeasibleBudgetError
from offramp_search.thresholds._answers import Answers
from offramp_search.thresholds._refine import refine as refine_thresholds
from offramp_search.thresholds._shared import subsets, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = ["Solution", "curve", "solve", "solve_answers"]

# A mean of equal latencies may round up by a few units in the last place.
_ROUNDING = 1 + 1e-12


@final
@dataclass(frozen=True, slots=True)
class Solution:
    """Thresholds, and what they make of the split they were solved on.

    All tuples have one entry per exit. The last exit always answers (threshold 0.0, enabled); a
    disabled exit has threshold 1.0, which is not used.

    Attributes:
        signal: What is compared with the threshold.
        thresholds: An enabled exit answers at ``signal >= threshold``.
        enabled: A disabled exit never answers.
        accuracy: Share of the images answered correctly.
        mean_ms: Mean latency per image, in milliseconds.
        exit_shares: Share of the images that leave at each exit.
    """

    signal: str
    thresholds: tuple[float, ...]
    enabled: tuple[bool, ...]
    accuracy: float
    mean_ms: float
    exit_shares: tuple[float, ...]


def solve(
    logits: ArrayLike,
    labels: ArrayLike,
    stage_ms: Sequence[float],
    *,
    mean_ms: float | None = None,
    signal: str = "max_probability",
    temperatures: Sequence[float] | None = None,
    refine: bool = True,
) -> Solution:
    """The most accurate thresholds whose mean latency keeps a limit.

    First every shared threshold is tried on every set of enabled exits, exactly; then, unless
    ``refine`` is false, the thresholds part and are improved two at a time. Of equally accurate
    thresholds the fastest win. Exits at which nobody would leave are disabled.

    Args:
        logits: ``(exits, images, classes)``, any float dtype.
        labels: ``(images,)`` integers.
        stage_ms: Latency that each stage adds, in milliseconds.
        mean_ms: The limit in milliseconds, or ``None`` for the best accuracy at any latency.
        signal: ``max_probability``, ``margin`` or ``entropy``.
        temperatures: One per exit; all one by default.
        refine: Whether each exit may have a threshold of its own.

    Raises:
        ShapeError: The arrays do not fit together.
        DataError: There is no image, or a logit or latency is not finite.
        InfeasibleBudgetError: Leaving at the first exit every time takes longer than the limit.
    """
    answers = Answers.of(logits, labels, stage_ms, signal, temperatures)
    return solve_answers(answers, mean_ms=mean_ms, signal=signal, refine=refine)


def solve_answers(
    answers: Answers,
    *,
    mean_ms: float | None = None,
    signal: str = "max_probability",
    refine: bool = True,
) -> Solution:
    """What ``solve`` does, on signals that were taken from logits before.

    Args:
        answers: What every exit answers, and after how long.
        mean_ms: The limit in milliseconds, or ``None`` for the best accuracy at any latency.
        signal: The one that the answers were made with.
        refine: Whether each exit may have a threshold of its own.

    Raises:
        InfeasibleBudgetError: Leaving at the first exit every time takes longer than the limit.
    """
    limit = math.inf if mean_ms is None else mean_ms * _ROUNDING
    if answers.cumulative_ms[0] > limit:
        smallest = float(answers.cumulative_ms[0])
        raise InfeasibleBudgetError(
            f"stage 0 alone takes {smallest:.4g} ms, more than the limit of {mean_ms:.4g} ms; "
            "raise the limit or make stage 0 smaller",
            smallest=smallest,
        )
    starts = [(math.inf,) * (answers.exits - 1)]
    for enabled in subsets(answers.exits):
        swept = sweep(answers, enabled)
        allowed = np.flatnonzero(swept.mean_ms <= limit)
        if len(allowed):
            correct = swept.correct[allowed]
            top = allowed[correct == correct.max()]
            point = int(top[swept.mean_ms[top].argmin()])
            starts.append(swept.per_exit(point, answers.exits))
    best, outcome = None, None
    for start in starts:
        candidate = answers.outcome(start)
        if candidate.mean_ms <= limit and (outcome is None or candidate.better_than(outcome)):
            best, outcome = start, candidate
    assert best is not None  # a threshold of 0 at the first exit keeps the limit
    if refine:
        best = refine_thresholds(answers, best, limit)
    return _solution(answers, best, signal)


def curve(
    logits: ArrayLike,
    labels: ArrayLike,
    stage_ms: Sequence[float],
    *,
    signal: str = "max_probability",
    temperatures: Sequence[float] | None = None,
) -> tuple[Solution, ...]:
    """All trades of accuracy against mean latency that a shared threshold can make.

    Args:
        logits: ``(exits, images, classes)``, any float dtype.
        labels: ``(images,)`` integers.
        stage_ms: Latency that each stage adds, in milliseconds.
        signal: ``max_probability``, ``margin`` or ``entropy``.
        temperatures: One per exit; all one by default.

    Returns:
        From the fastest to the most accurate, each more accurate than the one before.

    Raises:
        ShapeError: The arrays do not fit together.
        DataError: There is no image, or a logit or latency is not finite.
    """
    answers = Answers.of(logits, labels, stage_ms, signal, temperatures)
    never = answers.outcome((math.inf,) * (answers.exits - 1))
    points = [(never.mean_ms, -never.correct, (math.inf,) * (answers.exits - 1))]
    for enabled in subsets(answers.exits):
        swept = sweep(answers, enabled)
        order = np.lexsort((-swept.correct, swept.mean_ms))
        correct = swept.correct[order]
        record = correct > np.concatenate(([-1], np.maximum.accumulate(correct)[:-1]))
        points += [
            (
                float(swept.mean_ms[point]),
                -int(swept.correct[point]),
                swept.per_exit(int(point), answers.exits),
            )
            for point in order[record]
        ]
    front: list[Solution] = []
    most = -1
    for _, wrong, thresholds in sorted(points):
        if -wrong > most:
            most = -wrong
            front.append(_solution(answers, thresholds, signal))
    return tuple(front)


def _solution(answers: Answers, thresholds: tuple[float, ...], signal: str) -> Solution:
    outcome = answers.outcome(thresholds)
    waiting = answers.images
    written: list[float] = []
    enabled: list[bool] = []
    for threshold, leaving in zip(thresholds, outcome.counts, strict=False):
        waiting -= leaving
        enabled.append(leaving > 0)
        # Where everybody left who came, the smallest signal seen is no reason to hold back an
        # image that is less sure still.
        written.append(1.0 if not leaving else 0.0 if not waiting else threshold)
    return Solution(
        signal=signal,
        thresholds=(*written, 0.0),
        enabled=(*enabled, True),
        accuracy=outcome.correct / answers.images,
        mean_ms=outcome.mean_ms,
        exit_shares=tuple(count / answers.images for count in outcome.counts),
    )
