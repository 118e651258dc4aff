"""One calibration with everything that is fixed before the certification images are looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from offramp.calibration._walk import candidate_order, choose, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from offramp.calibration._inputs import Inputs, Signal
    from offramp.calibration._latency import ExitLatency
    from offramp.calibration._path import CandidatePath
    from offramp.calibration._promised import Answers, TailPlan
    from offramp.calibration._promises import Levels, Promises
    from offramp.calibration._quantity import Quantity
    from offramp.calibration._split import Parts

__all__ = ["Problem"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What one calibration is about.

    Attributes:
        program: ``runtime/precision``.
        name: The policy's name.
        signal: What is compared with the threshold.
        seed: Of the split.
        promises: What was asked for.
        levels: The confidence of each part.
        given: The arrays.
        answers: What the exits answer.
        parts: The images of each part.
        temperatures: One per exit.
        signals: ``(exits, images)`` float64, at these temperatures.
        latency: What is known of the time; ``None`` if nothing.
        tail: How the tail is bounded; ``None`` if it is not.
        path: The candidates, over the exits before the last stage that may run.
        quantities: What is promised, for all images.
    """

    program: str
    name: str
    signal: Signal
    seed: int
    promises: Promises
    levels: Levels
    given: Inputs
    answers: Answers
    parts: Parts
    temperatures: tuple[float, ...]
    signals: NDArray[np.float64]
    latency: ExitLatency | None
    tail: TailPlan | None
    path: CandidatePath
    quantities: tuple[Quantity, ...]

    @property
    def last_stage(self) -> int:
        """The last stage that may run."""
        return int(self.path.enabled.shape[1])

    def exits(self, candidate: int, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where images leave under a candidate."""
        return self.path.exits(candidate, self.signals[: self.last_stage, images])

    def solve(self, quantities: Sequence[Quantity]) -> int | None:
        """The best candidate certified to keep some of the promises; ``None`` if there is none.

        Without promises about the images there is nothing to test, and no reason to stop early.
        """
        if not quantities:
            return 0
        early = self.signals[: self.last_stage]
        fit, certify = self.parts.fit, self.parts.certify
        order = candidate_order(self.path, [q.take(fit) for q in quantities], early[:, fit])
        certified = walk(
            self.path,
            order,
            [quantity.take(certify) for quantity in quantities],
            early[:, certify],
            self.levels.walk,
        )
        return choose(certified, quantities) if certified else None

    def smallest(self, candidate: int, quantity: Quantity) -> float:
        """The smallest limit that the certification images would certify."""
        if quantity.free and not self.path.enabled[candidate].any():
            return 0.0
        exits = self.exits(candidate, self.parts.certify)
        return quantity.take(self.parts.certify).smallest(exits, self.levels.walk)
