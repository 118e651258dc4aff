"""Optuna's journal, made to survive the death of a writer."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, final

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import Trial

__all__ = ["open_study", "write_trial"]


@contextmanager
def open_study(journal: Path, sampler: BaseSampler) -> Iterator[Study]:
    """The study of a journal file, which is made if it is not there.

    A trial that is asked for is not in the journal until ``write_trial`` writes it, and trials are
    asked for and written by one at a time. Optuna says nothing on stderr while it is open.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield optuna.create_study(
            study_name="search",
            storage=_Journal(JournalFileBackend(str(journal), lock_obj=_Lock(journal))),
            sampler=sampler,
            direction="maximize",
            load_if_exists=True,
        )
    finally:
        optuna.logging.set_verbosity(verbosity)


def write_trial(trial: Trial) -> None:
    """Put a trial that was asked for into the journal; nothing if it is there already."""
    journal = trial.storage
    assert isinstance(journal, _Journal)
    journal.write(trial._trial_id)


@final
class _Journal(JournalStorage):
    """Writes a new trial in one line, with all its decisions.

    Optuna writes, and flushes to the disk, a line for each decision, and whoever reads one copies
    all decisions before it: what ten thousand decisions took then grew with their square.

    The numbers of trials are handed out before they are written: one study, asked by one at a
    time.
    """

    def __init__(self, backend: JournalFileBackend) -> None:
        super().__init__(backend)
        self._draft: FrozenTrial | None = None
        self._study_id = 0

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Begin a trial, or write one that is whole."""
        if template_trial is not None:
            return super().create_new_trial(study_id, template_trial)
        number = len(self.get_all_trials(study_id, deepcopy=False))
        self._study_id = study_id
        self._draft = FrozenTrial(
            number=number,
            trial_id=number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )
        return number

    def write(self, trial_id: int) -> None:
        """Write the trial if it was begun here and not written yet."""
        draft = self._draft_of(trial_id)
        if draft is not None:
            self._draft = None
            written = super().create_new_trial(self._study_id, draft)
            assert written == trial_id, "somebody else asked for a trial at the same time"

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial, the begun one too."""
        return self._draft_of(trial_id) or super().get_trial(trial_id)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Note a decision."""
        draft = self._draft_of(trial_id)
        if draft is None:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
            return
        draft.params[param_name] = distribution.to_external_repr(param_value_internal)
        draft.distributions[param_name] = distribution

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Note an attribute of the engine's."""
        draft = self._draft_of(trial_id)
        if draft is None:
            super().set_trial_user_attr(trial_id, key, value)
            return
        draft.user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Note an attribute of the sampler's."""
        draft = self._draft_of(trial_id)
        if draft is None:
            super().set_trial_system_attr(trial_id, key, value)
            return
        draft.system_attrs[key] = value

    def _draft_of(self, trial_id: int) -> FrozenTrial | None:
        draft = self._draft
        return draft if draft is not None and draft._trial_id == trial_id else None


@final
class _Lock(JournalFileOpenLock):  # the interface itself is not exported
    """Lets one process append at a time, and repairs what a killed one left.

    Optuna's own locks are files that outlive their owner: the next process waits half a minute for
    a dead one. Nor do they mind half a line at the end, onto which the next record would be glued.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal), grace_period=None)
        self._journal = journal
        self._held: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Wait for the lock, then cut off a torn last line."""
        file = self._journal.with_suffix(".lock").open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._held = file
        _cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        """Let go."""
        assert self._held is not None
        self._held.close()
        self._held = None


def _cut_torn_line(journal: Path) -> None:
    """Cut a file back to its last newline."""
    with journal.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
