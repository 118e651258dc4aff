"""Who works on which trial, and what becomes of the trials of the dead."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from optuna.trial import Trial, TrialState

from offramp_search._locks import exclusive, is_held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["MAX_STARTS", "begun_at", "claim", "is_orphan", "working"]

MAX_STARTS = 3
"""A trial whose process died this often is given up: it may be what killed it."""

_WORKER = "worker"
_STARTS = "starts"
_TAKEN_UP = "taken_up"


@contextmanager
def working(folder: Path) -> Iterator[Path]:
    """Hold a lock file that says this worker is alive, as long as it is."""
    folder.mkdir(exist_ok=True)
    alive = folder / f"{uuid.uuid4().hex}.lock"
    with exclusive(alive):
        try:
            yield alive
        finally:
            alive.unlink(missing_ok=True)


def is_orphan(trial: FrozenTrial, workers: Path) -> bool:
    """Whether a trial runs, but its worker does not; the caller holds the lock for asking."""
    if trial.state is not TrialState.RUNNING:
        return False
    worker = trial.user_attrs.get(_WORKER)
    return worker is None or not is_held(workers / worker)


def begun_at(trial: FrozenTrial) -> datetime:
    """When the worker that a trial has, or had last, began with it; local time, as Optuna's is."""
    taken_up = trial.user_attrs.get(_TAKEN_UP)
    if taken_up is not None:
        return datetime.fromisoformat(taken_up)
    assert trial.datetime_start is not None
    return trial.datetime_start


def claim(study: Study, worker: Path, orphans: list[FrozenTrial]) -> Trial:
    """A trial to work on: one whose worker died, taken up where it was left, or a new one.

    Taking it up keeps its number and the decisions taken so far, and a sampler that is a pure
    function of its seed and the finished trials takes the others as the dead worker would have.
    So an interrupted search finds exactly what an uninterrupted one finds.
    """
    for orphan in orphans:
        starts = int(orphan.user_attrs.get(_STARTS, 1))
        if starts >= MAX_STARTS:
            study.tell(orphan.number, state=TrialState.FAIL)
            continue
        trial = Trial(study, orphan._trial_id)
        trial.set_user_attr(_STARTS, starts + 1)
        trial.set_user_attr(_TAKEN_UP, datetime.now().isoformat())
        trial.set_user_attr(_WORKER, worker.name)
        return trial
    trial = study.ask()
    trial.set_user_attr(_WORKER, worker.name)
    return trial
