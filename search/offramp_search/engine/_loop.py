"""One worker's part of a search: ask, try out, tell, until all trials are done."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from optuna.trial import TrialState

from offramp_search._locks import exclusive
from offramp_search.engine._base import LostEvaluationError
from offramp_search.engine._journal import write_trial
from offramp_search.engine._tally import Tally
from offramp_search.engine._trial import decide, try_out
from offramp_search.engine._workers import claim

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from optuna.study import Study
    from optuna.trial import Trial

    from offramp_search.engine._result import SearchProgress
    from offramp_search.engine._trial import Task
    from offramp_search.spaces import Architecture

__all__ = ["Loop"]

_POLL_SECONDS = 0.2


@final
@dataclass(frozen=True)
class Loop:
    """What every worker of one process goes by.

    Attributes:
        study: The search so far; shared by the threads.
        task: What is searched, and how a proposal is judged.
        trials: Architectures to evaluate; ``None`` is without end.
        minutes: Of searching, after which nothing more is proposed; ``None`` is without end.
        max_refusals: Proposals refused or given up in a row before the search stops.
        asking: The lock that whoever proposes holds.
        worker: The lock file that says this process is alive, beside those of the others.
        progress: Called after every proposal.
    """

    study: Study
    task: Task
    trials: int | None
    minutes: float | None
    max_refusals: int
    asking: Path
    worker: Path
    progress: Callable[[SearchProgress], None] | None

    def run(self, *, threads: int) -> None:
        """Work until all trials are done.

        Args:
            threads: Proposals that are evaluated at once. The first error of any ends them all,
                each after the evaluation it is at.
        """
        stop = threading.Event()
        tally = Tally(self.study, self.task.space, self.worker.parent)
        if threads == 1:
            self._work(tally, stop)
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="search") as pool:
            try:
                working = [pool.submit(self._work, tally, stop) for _ in range(threads)]
                for one in as_completed(working):
                    one.result()
            finally:
                stop.set()

    def _work(self, tally: Tally, stop: threading.Event) -> None:
        while not stop.is_set():
            # A sampler is asked, and told, by one at a time.
            with exclusive(self.asking):
                tally.update()
                orphans = tally.orphans()
                at_work = tally.at_work() - len(orphans)
                trial = None
                if not self._is_enough(tally, at_work, tally.searched_s(orphans)):
                    trial = claim(self.study, self.worker, orphans)
                    architecture = decide(trial, self.task.space.decisions())
                    write_trial(trial)
            if trial is not None:
                self._try_out(trial, architecture, tally)
            elif at_work:
                time.sleep(_POLL_SECONDS)  # others have the last trials
            else:
                break

    def _is_enough(self, tally: Tally, at_work: int, searched_s: float) -> bool:
        return (
            (self.trials is not None and tally.done + at_work >= self.trials)
            or (self.minutes is not None and searched_s >= 60 * self.minutes)
            or tally.refused_in_a_row >= self.max_refusals
        )

    def _try_out(self, trial: Trial, architecture: Architecture, tally: Tally) -> None:
        try:
            score = try_out(trial, architecture, self.task, tally.twin)
            state = TrialState.PRUNED if score is None else TrialState.COMPLETE
        except LostEvaluationError:
            score, state = None, TrialState.FAIL
        with exclusive(self.asking):
            self.study.tell(trial, score, state=state)
            if self.progress is not None:
                tally.update()
                self.progress(tally.progress(self.trials))
