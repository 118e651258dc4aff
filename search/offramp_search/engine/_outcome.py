"""What the trials of a study amount to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from offramp.errors import InfeasibleBudgetError
from offramp_search.engine._result import SearchProgress, SearchResult
from offramp_search.engine._trial import REFUSAL, result_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

    from offramp_search.budget import Budget
    from offramp_search.engine._result import TrialResult

__all__ = ["best_of", "count_done", "count_refused", "make_progress", "make_result"]


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


def best_of(results: Sequence[TrialResult]) -> TrialResult:
    """The most accurate; of equals the fastest, then the first."""
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
        best=best_of(results) if results else None,
    )


def make_result(known: Sequence[FrozenTrial], budget: Budget, seed: int) -> SearchResult:
    """What the search found.

    Raises:
        InfeasibleBudgetError: Nothing kept the budget.
    """
    results = _complete(known)
    if not results:
        raise _infeasible(known)
    return SearchResult(
        best=best_of(results),
        trials=tuple(results),
        refused=sum(trial.state is TrialState.PRUNED for trial in known),
        failed=sum(trial.state is TrialState.FAIL for trial in known),
        budget=budget,
        seed=seed,
    )


def _infeasible(known: Sequence[FrozenTrial]) -> InfeasibleBudgetError:
    """Why the last proposal was refused; that the budget can be kept was found out before."""
    last = next(
        (trial.user_attrs[REFUSAL] for trial in reversed(known) if REFUSAL in trial.user_attrs),
        "every trial failed",
    )
    return InfeasibleBudgetError(
        f"none of {len(known)} proposals was evaluated to the end, although there are "
        f"architectures that keep the budget; the last was refused because: {last}; raise the "
        "limits, or use another method",
        smallest=math.inf,
    )
