"""One threshold for all enabled exits: every value that makes a difference, in one sweep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from offramp_search.thresholds._answers import Answers

__all__ = ["Sweep", "subsets", "sweep"]

# Up to this many early exits every subset is tried; above, the whole set and each exit alone.
_MAX_EXITS_FOR_ALL_SUBSETS = 4


@final
@dataclass(frozen=True, slots=True)
class Sweep:
    """What each shared threshold does, from the highest (nobody leaves early) to the lowest.

    Attributes:
        enabled: The early exits that take part.
        thresholds: ``(points,)`` float64.
        correct: ``(points,)`` int64, images answered correctly.
        mean_ms: ``(points,)`` float64.
    """

    enabled: tuple[int, ...]
    thresholds: NDArray[np.float64]
    correct: NDArray[np.int64]
    mean_ms: NDArray[np.float64]

    def per_exit(self, point: int, exits: int) -> tuple[float, ...]:
        """The thresholds of one point, one per exit but the last."""
        shared = float(self.thresholds[point])
        return tuple(shared if exit in self.enabled else math.inf for exit in range(exits - 1))


def subsets(exits: int) -> Iterator[tuple[int, ...]]:
    """Sets of early exits that may be enabled together, small ones first."""
    early = range(exits - 1)
    if len(early) <= _MAX_EXITS_FOR_ALL_SUBSETS:
        for size in range(1, len(early) + 1):
            yield from combinations(early, size)
    else:
        yield from ((exit,) for exit in early)
        yield tuple(early)


def sweep(answers: Answers, enabled: tuple[int, ...]) -> Sweep:
    """Try every shared threshold that makes a difference, in O(exits * images * log).

    An image leaves at the first exit whose signal, or that of an exit before it, reaches the
    threshold. So while the threshold falls, an image moves forward by one enabled exit each time
    the threshold passes one of its running maxima, and cumulative sums over these moves give the
    outcome of every threshold.

    Args:
        answers: The split.
        enabled: The early exits that take part, in order.
    """
    exits, images = answers.correct.shape
    last = exits - 1
    running = np.maximum.accumulate(answers.signals[list(enabled)], axis=0).ravel()
    order = np.argsort(-running, kind="stable")
    values = running[order]
    position = order // images
    image = order % images
    to = np.asarray(enabled)[position]
    source = np.asarray((*enabled[1:], last))[position]

    gained = answers.correct[to, image].astype(np.int64) - answers.correct[source, image]
    moves = np.zeros((len(order) + 1, exits), dtype=np.int64)
    moves[0, last] = images
    row = np.arange(1, len(order) + 1)
    moves[row, to] += 1
    moves[row, source] -= 1

    # Equal values move together: only the last of each run is a threshold.
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True)) + 1
    points = np.concatenate(([0], ends))
    correct = np.concatenate(([0], np.cumsum(gained))) + int(answers.correct[last].sum())
    return Sweep(
        enabled=enabled,
        thresholds=np.concatenate(([math.inf], values[ends - 1])),
        correct=correct[points],
        mean_ms=answers.mean_ms(np.cumsum(moves, axis=0)[points]),
    )
