"""What the trials of a study amount to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from offramp.errors import InfeasibleBudgetError
from offramp_search.engine._result import SearchProgress, SearchResult
from offramp_search.engine._trial import BOUND_MS, REFUSAL, SIZE_BYTES, STAGE_MS, result_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from optuna.trial import FrozenTrial

    from offramp_search.budget import Budget
    from offramp_search.engine._result import TrialResult

__all__ = ["count_done", "count_refused", "make_progress", "make_result"]


def count_done(known: Sequence[FrozenTrial]) -> int:
    """How many architectures were evaluated."""
    return sum(trial.state is TrialState.COMPLETE for trial in known)


def count_refused(known: Sequence[FrozenTrial]) -> int:
    """How many proposals were refused, or given up, since the last that was evaluated."""
    count = 0
    for trial in reversed(known):
        if trial.state is TrialState.COMPLETE:
            break
        # Where every evaluation kills its process, a search would otherwise go on for ever.
        count += trial.state in (TrialState.PRUNED, TrialState.FAIL)
    return count


def _complete(known: Sequence[FrozenTrial]) -> list[TrialResult]:
    return [result_of(trial) for trial in known if trial.state is TrialState.COMPLETE]


def _best(results: Sequence[TrialResult]) -> TrialResult:
    return max(
        results,
        key=lambda trial: (trial.solution.accuracy, -trial.solution.mean_ms, -trial.number),
    )


def make_progress(known: Sequence[FrozenTrial], trials: int) -> SearchProgress:
    """Where the search is."""
    results = _complete(known)
    return SearchProgress(
        done=len(results),
        trials=trials,
        refused=sum(trial.state is TrialState.PRUNED for trial in known),
        best=_best(results) if results else None,
    )


def make_result(known: Sequence[FrozenTrial], budget: Budget, seed: int) -> SearchResult:
    """What the search found.

    Raises:
        InfeasibleBudgetError: Nothing kept the budget.
    """
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
