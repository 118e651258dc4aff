"""The loop."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from offramp.errors import InfeasibleBudgetError
from offramp_search._locks import exclusive
from offramp_search.engine._journal import open_study
from offramp_search.engine._result import SearchProgress, SearchResult, write_result
from offramp_search.engine._settings import check_settings, settings_of
from offramp_search.engine._trial import BOUND_MS, REFUSAL, SIZE_BYTES, STAGE_MS, result_of, try_out
from offramp_search.engine._workers import claim, is_orphan, working

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from offramp_search.budget import Budget
    from offramp_search.devices import LatencyTable
    from offramp_search.engine._result import TrialResult
    from offramp_search.evaluators import Evaluator
    from offramp_search.spaces import Space

__all__ = ["search"]

_POLL_SECONDS = 0.2


def search(
    space: Space,
    sampler: BaseSampler,
    evaluator: Evaluator,
    table: LatencyTable,
    budget: Budget,
    *,
    trials: int,
    folder: Path,
    seed: int = 0,
    signal: str = "max_probability",
    max_refusals: int = 500,
    settings: Mapping[str, str] | None = None,
    progress: Callable[[SearchProgress], None] | None = None,
) -> SearchResult:
    """Search for the most accurate architecture that keeps a budget.

    Every proposal that is valid and can keep the budget is evaluated on the search-validation
    split; then its thresholds are solved for the budget, and its score is the accuracy there. An
    architecture that is proposed again counts as a trial and costs nothing.

    Everything is kept in ``folder`` as it happens (``journal.log``, ``search.json``, and at the
    end ``result.json``). Calling again continues up to ``trials``; a trial whose process was
    killed is taken up where it was left, and if it has ended its process three times it is given
    up. Calls in several processes with one folder share the work; each returns when all trials
    are done. The folder must be on a file system with locks.

    Args:
        space: What may be built.
        sampler: What proposes; one of ``offramp_search.samplers`` if resuming shall change
            nothing.
        evaluator: What gives an architecture its outputs.
        table: Where latencies are looked up, and measured if they are missing.
        budget: What is limited.
        trials: Architectures to evaluate, those of an earlier call included.
        folder: Where the search is kept; made if it is not there.
        seed: Handed to the evaluator.
        signal: ``max_probability``, ``margin`` or ``entropy``.
        max_refusals: Proposals refused in a row before the search stops.
        settings: What else the results depend on, such as the base network and the data; a
            search is not continued with others.
        progress: Called after every proposal.

    Returns:
        The best architecture and all others. There are fewer than ``trials`` if ``max_refusals``
        proposals in a row were refused.

    Raises:
        InfeasibleBudgetError: ``max_refusals`` proposals were refused and none was not; says the
            smallest reachable latency or size.
        ResumeError: The folder holds a search with other settings.
        DeviceError: A block cannot be measured.
    """
    if trials < 1 or max_refusals < 1:
        raise ValueError(
            f"trials and max_refusals must be at least 1, got {trials} and {max_refusals}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    asking = folder / "asking.lock"
    with exclusive(asking):
        check_settings(
            folder / "search.json",
            settings_of(
                space,
                sampler,
                evaluator,
                table,
                budget,
                seed=seed,
                signal=signal,
                extra=settings or {},
            ),
        )
    workers = folder / "workers"
    with open_study(folder / "journal.log", sampler) as study, working(workers) as worker:
        while True:
            with exclusive(asking):
                known = study.get_trials(deepcopy=False)
                orphans = [trial for trial in known if is_orphan(trial, workers)]
                at_work = sum(trial.state is TrialState.RUNNING for trial in known) - len(orphans)
                enough = _done(known) + at_work >= trials or _refused(known) >= max_refusals
                trial = None if enough else claim(study, worker, orphans)
            if trial is not None:
                try_out(study, trial, space, evaluator, table, budget, seed=seed, signal=signal)
                if progress is not None:
                    progress(_progress(study.get_trials(deepcopy=False), trials))
            elif at_work:
                time.sleep(_POLL_SECONDS)  # other workers have the last trials
            else:
                break
        result = _result(study.get_trials(deepcopy=False), budget, seed)
    write_result(folder / "result.json", result)
    return result


def _done(known: Sequence[FrozenTrial]) -> int:
    return sum(trial.state is TrialState.COMPLETE for trial in known)


def _refused(known: Sequence[FrozenTrial]) -> int:
    """How many proposals were refused since the last that was not."""
    count = 0
    for trial in reversed(known):
        if trial.state is TrialState.COMPLETE:
            break
        count += trial.state is TrialState.PRUNED
    return count


def _complete(known: Sequence[FrozenTrial]) -> list[TrialResult]:
    return [result_of(trial) for trial in known if trial.state is TrialState.COMPLETE]


def _best(results: Sequence[TrialResult]) -> TrialResult:
    return max(
        results,
        key=lambda trial: (trial.solution.accuracy, -trial.solution.mean_ms, -trial.number),
    )


def _progress(known: Sequence[FrozenTrial], trials: int) -> SearchProgress:
    results = _complete(known)
    return SearchProgress(
        done=len(results),
        trials=trials,
        refused=sum(trial.state is TrialState.PRUNED for trial in known),
        best=_best(results) if results else None,
    )


def _result(known: Sequence[FrozenTrial], budget: Budget, seed: int) -> SearchResult:
    results = _complete(known)
    if not results:
        raise _infeasible(known, budget)
    return SearchResult(
        best=_best(results),
        trials=tuple(results),
        refused=sum(trial.state is TrialState.PRUNED for trial in known),
        failed=sum(trial.state is TrialState.FAIL for trial in known),
        budget=budget,
        seed=seed,
    )


def _infeasible(known: Sequence[FrozenTrial], budget: Budget) -> InfeasibleBudgetError:
    """Which limit nobody kept, and the smallest value found for it."""
    sizes = _attributes(known, SIZE_BYTES)
    timed = _attributes(known, STAGE_MS)
    # If nothing was worth measuring to the end, the blocks that are known say how long at least.
    least = "" if timed else "at least "
    timed = timed or _attributes(known, BOUND_MS)
    found = (
        ("size_bytes", budget.size_bytes, sizes, "bytes", "", "the parameters"),
        ("worst_ms", budget.worst_ms, [math.fsum(ms) for ms in timed], "ms", least, "all stages"),
        ("mean_ms", budget.mean_ms, [ms[0] for ms in timed], "ms", least, "stage 0 alone"),
    )
    tried = f"none of {len(known)} proposals keeps the budget"
    for name, limit, values, unit, bound, what in found:
        if limit is not None and values and min(values) > limit:
            smallest = float(min(values))
            return InfeasibleBudgetError(
                f"{tried}: the smallest {name} found is {bound}{smallest:.6g} {unit} ({what}), the "
                f"limit is {limit:.6g} {unit}; raise it, or search a space with smaller networks",
                smallest=smallest,
            )
    last = next(iter(_attributes(reversed(known), REFUSAL)), "every trial failed")
    return InfeasibleBudgetError(
        f"{tried}; the last was refused because: {last}; raise the limits, or search another space",
        smallest=math.inf,
    )


def _attributes(known: Iterable[FrozenTrial], name: str) -> list[Any]:
    return [trial.user_attrs[name] for trial in known if name in trial.user_attrs]
