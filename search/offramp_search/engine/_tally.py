"""What the trials of a study amount to so far."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, final

from optuna.trial import FrozenTrial, TrialState

from offramp_search.engine._result import SearchProgress, TrialResult
from offramp_search.engine._trial import result_of
from offramp_search.engine._workers import begun_at, is_orphan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from optuna.study import Study

    from offramp_search.spaces import Architecture, Space

__all__ = ["Tally", "best_of"]

_PAUSE = timedelta(seconds=1)
"""From one trial of a search to the next less time passes."""

_Interval = tuple[datetime, datetime]


def best_of(results: Sequence[TrialResult]) -> TrialResult:
    """The most accurate; of equals the fastest, then the first."""
    return max(
        results,
        key=lambda trial: (trial.solution.accuracy, -trial.solution.mean_ms, -trial.number),
    )


@final
class Tally:
    """Counts every trial once, when it has finished, so that a proposal costs no more after many.

    What it says is a function of the study alone, so that workers agree and a resumed search goes
    on from the same numbers. Threads may share one.

    Args:
        study: The search.
        space: What is searched.
        workers: Folder of the lock files of those who are at it.
    """

    def __init__(self, study: Study, space: Space, workers: Path) -> None:
        self._study = study
        self._space = space
        self._workers = workers
        self._lock = threading.RLock()
        self._known: Sequence[FrozenTrial] = ()
        self._unfinished: list[int] = []
        self._refused = 0
        # Numbers of those refused or given up after the last that was evaluated.
        self._in_a_row: list[int] = []
        self._last_done = -1
        self._first_of: dict[int, int] = {}
        self._searched: list[_Interval] = []
        self._done = 0
        self._best: TrialResult | None = None

    def update(self) -> None:
        """Take in what has happened since."""
        with self._lock:
            before, self._known = len(self._known), self._study.get_trials(deepcopy=False)
            open_before = [*self._unfinished, *range(before, len(self._known))]
            self._unfinished = []
            for number in open_before:
                if self._known[number].state.is_finished():
                    self._count(self._known[number])
                else:
                    self._unfinished.append(number)

    @property
    def done(self) -> int:
        """Architectures evaluated."""
        return self._done

    @property
    def refused_in_a_row(self) -> int:
        """Proposals refused, or given up, since the last that was evaluated."""
        return len(self._in_a_row)

    def orphans(self) -> list[FrozenTrial]:
        """Trials that run, but whose worker does not; the caller holds the lock for asking."""
        trials = [self._known[number] for number in self._unfinished]
        return [trial for trial in trials if is_orphan(trial, self._workers)]

    def at_work(self) -> int:
        """Trials that run, orphans included."""
        return len(self._unfinished)

    def searched_s(self, orphans: Sequence[FrozenTrial]) -> float:
        """Seconds in which anybody was at a trial; pauses between two calls are left out.

        What a killed worker spent on its last trial is not known, and left out too.
        """
        now = datetime.now()
        left = {trial.number for trial in orphans}
        running = [
            (begun_at(self._known[number]), now)
            for number in self._unfinished
            if number not in left
        ]
        searched = self._searched
        for interval in running:
            searched = _with(searched, interval)
        return sum((end - begin).total_seconds() for begin, end in searched)

    def twin(self, architecture: Architecture) -> FrozenTrial | None:
        """The first trial that evaluated the same network, whose outputs would be the same."""
        self.update()
        form = self._space.identity(architecture)
        with self._lock:
            number = self._first_of.get(hash(form))
            if number is None:
                return None
            trial = self._known[number]
        return trial if self._space.identity(trial.params) == form else None

    def progress(self, trials: int | None) -> SearchProgress:
        """Where the search is."""
        return SearchProgress(
            done=self._done,
            trials=trials,
            refused=self._refused,
            best=self._best,
            searched_s=self.searched_s(()),
        )

    def _count(self, trial: FrozenTrial) -> None:
        assert trial.datetime_complete is not None
        self._searched = _with(self._searched, (begun_at(trial), trial.datetime_complete))
        if trial.state is TrialState.COMPLETE:
            self._done += 1
            result = result_of(trial)
            self._best = best_of([result] if self._best is None else [self._best, result])
            self._last_done = max(self._last_done, trial.number)
            self._in_a_row = [number for number in self._in_a_row if number > self._last_done]
            # Its hash, because ten thousand decisions of each trial would be kept twice.
            form = hash(self._space.identity(trial.params))
            self._first_of[form] = min(trial.number, self._first_of.get(form, trial.number))
            return
        self._refused += trial.state is TrialState.PRUNED
        # Where every evaluation kills its process, a search would otherwise go on for ever.
        if trial.number > self._last_done:
            self._in_a_row.append(trial.number)


def _with(intervals: Sequence[_Interval], new: _Interval) -> list[_Interval]:
    """Intervals that lie more than a pause apart, one more taken in."""
    begin, end = new
    apart = []
    for one in intervals:
        if one[1] + _PAUSE < begin or end + _PAUSE < one[0]:
            apart.append(one)
        else:
            begin, end = min(begin, one[0]), max(end, one[1])
    return [*apart, (begin, end)]
