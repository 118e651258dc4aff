"""What the trials of a study amount to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from offramp.errors import InfeasibleBudgetError
from offramp_search.engine._result import SearchResult
from offramp_search.engine._tally import best_of
from offramp_search.engine._trial import REFUSAL, result_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

    from offramp_search.budget import Budget

__all__ = ["make_result"]


def make_result(known: Sequence[FrozenTrial], budget: Budget, seed: int) -> SearchResult:
    """What the search found.

    Raises:
        InfeasibleBudgetError: Nothing kept the budget.
    """
    results = [result_of(trial) for trial in known if trial.state is TrialState.COMPLETE]
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
