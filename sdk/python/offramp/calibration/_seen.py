"""What the certification images show of a policy, exit by exit and class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offramp.calibration._binomial import smallest_rate
from offramp.calibration._report import ClassReport, ExitReport

if TYPE_CHECKING:
    from offramp.calibration._problem import Problem

__all__ = ["class_reports", "exit_reports"]

_INTERVAL = 0.95


def exit_reports(problem: Problem, candidate: int) -> tuple[ExitReport, ...]:
    """One entry per exit.

    Args:
        problem: The calibration.
        candidate: Of its path.
    """
    images = problem.parts.certify
    exits = problem.exits(candidate, images)
    answers = problem.answers
    right = None if answers.right is None else answers.right[exits, images]
    drops = None if answers.right is None else answers.drops()[exits, images]
    unlike = answers.unlike()[exits, images]
    one_side = 1.0 - (1.0 - _INTERVAL) / 2.0
    reports = []
    for exit in range(len(problem.signals)):
        here = exits == exit
        count = int(here.sum())
        reports.append(
            ExitReport(
                exit=exit,
                images=count,
                share=count / images.size,
                share_low=1.0 - smallest_rate(images.size - count, images.size, one_side),
                share_high=smallest_rate(count, images.size, one_side),
                accuracy=None if right is None or not count else float(right[here].mean()),
                drop=None if drops is None or not count else float(drops[here].mean()),
                disagreement=float(unlike[here].mean()) if count else None,
                distinct_signals=int(np.unique(problem.signals[exit]).size),
            )
        )
    return tuple(reports)


def class_reports(problem: Problem, candidate: int) -> tuple[ClassReport, ...]:
    """One entry per class seen; none without labels.

    Args:
        problem: The calibration.
        candidate: Of its path.
    """
    images, answers = problem.parts.certify, problem.answers
    if answers.labels is None or answers.right is None:
        return ()
    exits = problem.exits(candidate, images)
    right, drops = answers.right[exits, images], answers.drops()[exits, images]
    labels = answers.labels[images]
    reports = []
    for index in np.unique(labels).tolist():
        here = labels == index
        count = int(here.sum())
        reports.append(
            ClassReport(
                index=index,
                images=count,
                early_share=float((exits[here] < len(problem.signals) - 1).mean()),
                accuracy=float(right[here].mean()),
                drop=float(drops[here].mean()),
                drop_at_most=smallest_rate(
                    int((drops[here] > 0).sum()), count, problem.promises.confidence
                ),
            )
        )
    return tuple(reports)
