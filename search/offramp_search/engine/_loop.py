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
from offramp_search.engine._outcome import count_done, count_refused, make_progress
from offramp_search.engine._trial import decide, try_out
from offramp_search.engine._workers import claim, is_orphan

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
        trials: Architectures to evaluate.
        max_refusals: Proposals refused or given up in a row before the search stops.
        asking: The lock that whoever proposes holds.
        worker: The lock file that says this process is alive, beside those of the others.
        progress: Called after every proposal.
    """

    study: Study
    task: Task
    trials: int
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
        if threads == 1:
            self._work(stop)
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="search") as pool:
            try:
                for one in as_completed([pool.submit(self._work, stop) for _ in range(threads)]):
                    one.result()
            finally:
                stop.set()

    def _work(self, stop: threading.Event) -> None:
        while not stop.is_set():
            # A sampler is asked, and told, by one at a time.
            with exclusive(self.asking):
                known = self.study.get_trials(deepcopy=False)
                orphans = [trial for trial in known if is_orphan(trial, self.worker.parent)]
                at_work = sum(trial.state is TrialState.RUNNING for trial in known) - len(orphans)
                enough = (
                    count_done(known) + at_work >= self.trials
                    or count_refused(known) >= self.max_refusals
                )
                trial = None if enough else claim(self.study, self.worker, orphans)
                if trial is not None:
                    architecture = decide(trial, self.task.space.decisions())
            if trial is not None:
                self._try_out(trial, architecture)
            elif at_work:
                time.sleep(_POLL_SECONDS)  # others have the last trials
            else:
                break

    def _try_out(self, trial: Trial, architecture: Architecture) -> None:
        try:
            score = try_out(self.study, trial, architecture, self.task)
            state = TrialState.PRUNED if score is None else TrialState.COMPLETE
        except LostEvaluationError:
            score, state = None, TrialState.FAIL
        with exclusive(self.asking):
            self.study.tell(trial, score, state=state)
            if self.progress is not None:
                self.progress(make_progress(self.study.get_trials(deepcopy=False), self.trials))
