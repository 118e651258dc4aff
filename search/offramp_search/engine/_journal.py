"""Optuna's journal, made to survive the death of a writer."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, final

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optuna.samplers import BaseSampler
    from optuna.study import Study

__all__ = ["open_study"]


@contextmanager
def open_study(journal: Path, sampler: BaseSampler) -> Iterator[Study]:
    """The study of a journal file, which is made if it is not there.

    Optuna says nothing on stderr while it is open.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=_Lock(journal))),
            sampler=sampler,
            direction="maximize",
            load_if_exists=True,
        )
    finally:
        optuna.logging.set_verbosity(verbosity)


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
