"""The search loop in memory, for evaluations that are look-ups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import optuna
from optuna.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from optuna.samplers import BaseSampler

    from offramp_search.spaces import Architecture
    from offramp_search.tabular._base import TabularSpace

__all__ = ["TabularTrial", "best_of", "run"]


@final
@dataclass(frozen=True, slots=True)
class TabularTrial:
    """One evaluation.

    Attributes:
        architecture: What was proposed.
        value: What the sampler was told.
    """

    architecture: Architecture
    value: float


def run(
    space: TabularSpace,
    sampler: BaseSampler,
    evaluate: Callable[[Architecture], float],
    *,
    evaluations: int,
    excess: Callable[[Architecture], float] | None = None,
    max_refusals: int = 10_000,
) -> list[TabularTrial]:
    """Let a sampler maximise a function of the architecture.

    A proposal that breaks the budget is told as pruned, as the engine does, and is no evaluation;
    one that was made before is evaluated again.

    Args:
        space: What may be proposed.
        sampler: What proposes.
        evaluate: Value of an architecture; larger is better.
        evaluations: How many there are.
        excess: By which part of the limit an architecture breaks the budget; not above zero if it
            keeps it.
        max_refusals: Proposals refused in a row before this gives up.

    Returns:
        All evaluations in their order.

    Raises:
        RuntimeError: ``max_refusals`` proposals in a row broke the budget.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    done: list[TabularTrial] = []
    refused = 0
    decisions = dict(space.decisions())
    try:
        study = optuna.create_study(direction="maximize", sampler=sampler)
        while len(done) < evaluations:
            trial = study.ask(fixed_distributions=dict(decisions))
            architecture: Architecture = trial.params
            broken = 0.0 if excess is None else excess(architecture)
            if excess is not None:
                trial.set_constraint("budget", broken)
            if broken > 0:
                refused += 1
                if refused >= max_refusals:
                    raise RuntimeError(f"{refused} proposals in a row broke the budget")
                study.tell(trial, state=TrialState.PRUNED)
                continue
            refused = 0
            done.append(TabularTrial(architecture, evaluate(architecture)))
            study.tell(trial, done[-1].value)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return done


def best_of(trials: Sequence[TabularTrial]) -> TabularTrial:
    """The evaluation with the largest value, the first of equals."""
    return max(trials, key=lambda trial: trial.value)
