"""From promises to the quantities that are tested, and the stages that may run at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.calibration._quantity import Quantity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp.calibration._inputs import Inputs
    from offramp.calibration._latency import ExitLatency
    from offramp.calibration._promises import Levels, Promises

__all__ = ["Answers", "TailPlan", "latency_quantity", "plan_tail", "quantities"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What every exit answers, beside the truth and the reference.

    Attributes:
        classes: ``(exits, images)`` int64.
        reference: ``(images,)`` int64.
        right: ``(exits, images)`` bool; ``None`` without labels.
        reference_right: ``(images,)`` bool; ``None`` without labels.
        labels: ``(images,)`` int64; ``None`` without labels.
    """

    classes: NDArray[np.int64]
    reference: NDArray[np.int64]
    right: NDArray[np.bool_] | None
    reference_right: NDArray[np.bool_] | None
    labels: NDArray[np.int64] | None

    @classmethod
    def of(cls, given: Inputs) -> Answers:
        """Read them off the logits; of equal classes the first one answers."""
        classes = given.logits.argmax(axis=-1)
        reference = classes[-1] if given.reference is None else given.reference
        if given.labels is None:
            return cls(classes, reference, None, None, None)
        return cls(
            classes, reference, classes == given.labels, reference == given.labels, given.labels
        )

    def drops(self) -> NDArray[np.int64]:
        """``(exits, images)``: 1 if the exit is wrong and the reference right, -1 the other way."""
        assert self.right is not None
        assert self.reference_right is not None
        drops: NDArray[np.int64] = self.reference_right.astype(np.int64) - self.right
        return drops

    def unlike(self) -> NDArray[np.int64]:
        """``(exits, images)``: 1 if the exit does not answer what the reference does."""
        unlike: NDArray[np.int64] = (self.classes != self.reference).astype(np.int64)
        return unlike

    def costs(self) -> NDArray[np.int64]:
        """``drops`` if there are labels, ``unlike`` if there are none."""
        return self.unlike() if self.right is None else self.drops()


@final
@dataclass(frozen=True, slots=True, eq=False)
class TailPlan:
    """How the tail of the latency is bounded.

    Attributes:
        last_stage: The last stage that may run for any image; -1 if not even stage 0 is quick
            enough.
        quick_stage: The last stage whose quantile is below the limit.
        leaving_later: The largest share of images that may go on behind ``quick_stage``; 0 if
            none does.
        exit_ms: ``(exits,)``, the upper confidence limits it was decided by.
        observed_ms: ``(exits,)``, the quantiles as seen.
    """

    last_stage: int
    quick_stage: int
    leaving_later: float
    exit_ms: NDArray[np.float64]
    observed_ms: NDArray[np.float64]


def plan_tail(promises: Promises, latency: ExitLatency, confidence: float) -> TailPlan:
    """Decide which stages may run.

    If all of them keep the limit with the whole allowance ``1 - quantile``, all may. Otherwise the
    hard cap keeps those that do. The soft one halves the allowance: one half for runs that take
    too long, the other for images that leave behind the last quick stage.
    """
    assert promises.tail_ms is not None
    exits = len(latency.stages_ms)
    limits = latency.quantile_limits_ms(promises.quantile, confidence)
    observed = latency.quantile_ms(promises.quantile)
    quick = int((limits <= promises.tail_ms).sum()) - 1
    if quick == exits - 1 or promises.cap == "hard":
        return TailPlan(quick, quick, 0.0, limits, observed)
    allowance = (1.0 - promises.quantile) / 2.0
    limits = latency.quantile_limits_ms(1.0 - allowance, confidence)
    observed = latency.quantile_ms(1.0 - allowance)
    quick = int((limits <= promises.tail_ms).sum()) - 1
    last = exits - 1 if quick >= 0 else -1
    return TailPlan(last, quick, allowance, limits, observed)


def quantities(
    promises: Promises,
    answers: Answers,
    latency: ExitLatency | None,
    tail: TailPlan | None,
    levels: Levels,
) -> tuple[Quantity, ...]:
    """What has to be tested on the images of the candidates, for all images."""
    # Nothing is lost at the last exit itself, if images can get there.
    reached = tail is None or tail.last_stage == len(answers.classes) - 1
    own = promises.reference == "self" and reached
    result = []
    if promises.accuracy_drop is not None:
        result.append(Quantity("accuracy_drop", promises.accuracy_drop, answers.drops(), free=own))
    if promises.early_exit_drop is not None:
        limit = promises.early_exit_drop
        # Without early exits no image is concerned, whatever the reference.
        result.append(
            Quantity("early_exit_drop", limit, answers.drops(), groups="early", free=reached)
        )
    if promises.class_drop is not None:
        assert answers.labels is not None
        limit, labels = promises.class_drop, answers.labels
        result.append(Quantity("class_drop", limit, answers.drops(), groups=labels, free=own))
    if promises.disagreement is not None:
        limit = promises.disagreement
        result.append(Quantity("disagreement", limit, answers.unlike(), exact=True, free=own))
    images = answers.classes.shape[1]
    if promises.mean_ms is not None:
        assert latency is not None
        limits = latency.mean_limits_ms(levels.latency)
        result.append(latency_quantity(promises.mean_ms, limits, images))
    if tail is not None and tail.leaving_later > 0.0:
        late = np.arange(len(answers.classes)) > tail.quick_stage
        table = np.repeat(late[:, np.newaxis].astype(np.int64), images, axis=1)
        result.append(
            Quantity("tail_latency", tail.leaving_later, table, exact=True, faster_is_safer=True)
        )
    return tuple(result)


def latency_quantity(limit_ms: float, exit_ms: NDArray[np.float64], images: int) -> Quantity:
    """The mean latency: each image takes the time of its exit.

    Args:
        limit_ms: The largest mean allowed.
        exit_ms: ``(exits,)``, the time until each exit answers.
        images: How many there are.
    """
    first, span = float(exit_ms[0]), float(exit_ms[-1] - exit_ms[0])
    # With one exit, or stages that take no time, all images take the same.
    scale = span if span > 0.0 else 1.0
    table = np.repeat(((exit_ms - first) / scale)[:, np.newaxis], images, axis=1)
    return Quantity(
        kind="mean_latency",
        limit=(limit_ms - first) / scale,
        table=table,
        faster_is_safer=True,
        scale=scale,
        offset=first,
    )
