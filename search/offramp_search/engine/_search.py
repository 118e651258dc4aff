"""The search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp_search._locks import exclusive
from offramp_search.engine._feasible import find_feasible
from offramp_search.engine._journal import open_study
from offramp_search.engine._local import LocalEngine
from offramp_search.engine._loop import Loop
from offramp_search.engine._outcome import make_result
from offramp_search.engine._result import write_result
from offramp_search.engine._settings import check_settings, settings_of
from offramp_search.engine._trial import Task
from offramp_search.engine._workers import working

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from optuna.samplers import BaseSampler

    from offramp_search.budget import Budget
    from offramp_search.devices import LatencyTable
    from offramp_search.engine._base import Engine
    from offramp_search.engine._result import SearchProgress, SearchResult
    from offramp_search.evaluators import Evaluator
    from offramp_search.spaces import Space

__all__ = ["search"]


def search(
    space: Space,
    sampler: BaseSampler,
    evaluator: Evaluator,
    table: LatencyTable,
    budget: Budget,
    *,
    trials: int | None,
    folder: Path,
    minutes: float | None = None,
    seed: int = 0,
    signal: str = "max_probability",
    max_refusals: int = 500,
    settings: Mapping[str, str] | None = None,
    engine: Engine | None = None,
    progress: Callable[[SearchProgress], None] | None = None,
) -> SearchResult:
    """Search for the most accurate architecture that keeps a budget.

    Every proposal that is valid and can keep the budget is evaluated on the search-validation
    split; then its thresholds are solved for the budget, and its score is the accuracy there. An
    architecture that is proposed again counts as a trial and costs nothing.

    Everything is kept in ``folder`` as it happens (``journal.log``, ``search.json``, ``answers``,
    and at the end ``result.json``). Calling again continues up to ``trials`` or ``minutes``,
    whichever comes first; the minutes of earlier calls count, the time between calls does not. A
    trial whose process was killed is taken up where it was left, and if it has ended its process
    three times it is given up. Calls in several processes with one folder share the work; each
    returns when all trials are done. The folder must be on a file system with locks.

    Args:
        space: What may be built.
        sampler: What proposes; one of ``offramp_search.samplers`` if resuming shall change
            nothing.
        evaluator: What gives an architecture its outputs.
        table: Where latencies are looked up, and measured if they are missing.
        budget: What is limited.
        trials: Architectures to evaluate, those of an earlier call included; ``None`` if
            ``minutes`` end the search.
        folder: Where the search is kept; made if it is not there.
        minutes: Wall-clock time, after which nothing more is proposed; what is being evaluated
            then still counts.
        seed: Handed to the evaluator.
        signal: ``max_probability``, ``margin`` or ``entropy``.
        max_refusals: Proposals refused or given up in a row before the search stops.
        settings: What else the results depend on, such as the base network and the data; a
            search is not continued with others.
        engine: Where architectures are evaluated; ``None`` is this process. With several workers
            a sampler proposes before it knows what becomes of the proposals that are out, so
            what is found depends on which of them come back first.
        progress: Called after every proposal.

    Returns:
        The best architecture and all others. There are fewer than ``trials`` if ``max_refusals``
        proposals in a row were refused, or the ``minutes`` were over.

    Raises:
        InfeasibleBudgetError: No architecture keeps the budget (see ``find_feasible``), which is
            said before anything is evaluated; or ``max_refusals`` proposals in a row were refused
            and none was not.
        ResumeError: The folder holds a search with other settings.
        DeviceError: A block cannot be measured.
    """
    if (trials is not None and trials < 1) or max_refusals < 1:
        raise ValueError(
            f"trials and max_refusals must be at least 1, got {trials} and {max_refusals}"
        )
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes must be above 0, got {minutes}")
    if trials is None and minutes is None:
        raise ValueError("a search ends after trials or minutes; give one of them")
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
    find_feasible(space, table, budget)
    with (
        (engine or LocalEngine()).open(evaluator) as judge,
        open_study(folder / "journal.log", sampler) as study,
        working(folder / "workers") as worker,
    ):
        Loop(
            study=study,
            task=Task(space, judge, table, budget, seed, signal, folder),
            trials=trials,
            minutes=minutes,
            max_refusals=max_refusals,
            asking=asking,
            worker=worker,
            progress=progress,
        ).run(threads=engine.workers if engine is not None else 1)
        result = make_result(study.get_trials(deepcopy=False), budget, seed)
    write_result(folder / "result.json", result)
    return result
