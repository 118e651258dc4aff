"""One proposal: refused before it costs a forward pass, or evaluated and scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import msgspec
import numpy as np
from optuna.distributions import CategoricalDistribution, IntDistribution

from offramp.errors import TrainingError
from offramp_search.engine._answers import write_answers
from offramp_search.engine._result import TrialResult
from offramp_search.thresholds import Answers, Solution, solve_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

    from offramp_search.budget import Budget
    from offramp_search.devices import LatencyTable
    from offramp_search.evaluators import Evaluator
    from offramp_search.spaces import Architecture, Space

__all__ = [
    "REFUSAL",
    "Task",
    "decide",
    "result_of",
    "try_out",
]

REFUSAL = "refusal"
_SIZE_BYTES = "size_bytes"
_STAGE_MS = "stage_ms"
_SOLUTION = "solution"
_REPEATS = "repeats"


def decide(trial: Trial, decisions: Mapping[str, BaseDistribution]) -> Architecture:
    """Take every decision of the space, in order; those a trial has already stay."""
    return {name: _take(trial, name, decisions[name]) for name in decisions}


def _take(trial: Trial, name: str, distribution: BaseDistribution) -> str | int:
    if isinstance(distribution, CategoricalDistribution):
        value: str | int = trial.suggest_categorical(name, distribution.choices)  # type: ignore[assignment]
        return value
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    raise ValueError(
        f"decision {name!r} is a {type(distribution).__name__}; a search space has categorical "
        "and integer decisions only"
    )


@final
@dataclass(frozen=True)
class Task:
    """What is searched, and how a proposal is judged.

    Attributes:
        space: What may be built.
        evaluator: What gives an architecture its outputs.
        table: Where latencies are looked up.
        budget: What is limited.
        seed: Handed to the evaluator.
        signal: ``max_probability``, ``margin`` or ``entropy``.
        folder: Where what the exits answered is kept, to solve thresholds for other latencies.
    """

    space: Space
    evaluator: Evaluator
    table: LatencyTable
    budget: Budget
    seed: int
    signal: str
    folder: Path


def try_out(
    trial: Trial,
    architecture: Architecture,
    task: Task,
    twin: Callable[[Architecture], FrozenTrial | None],
) -> float | None:
    """Refuse or evaluate an architecture, and note in the trial what it is worth.

    Of a refused one the constraints above zero say by how much, so that the sampler learns from
    it. The blocks of one that is valid and not too large are measured if the table lacks them.

    Args:
        trial: The proposal.
        architecture: Its decisions.
        task: How it is judged.
        twin: Finds a trial that evaluated the same network.

    Returns:
        The score to tell the study, or ``None`` if it is refused.

    Raises:
        LostEvaluationError: The processes that evaluated it died.
    """
    try:
        return _judge(trial, architecture, task, twin)
    except _RefusedError as refused:
        trial.set_user_attr(REFUSAL, str(refused))
        return None


def _judge(
    trial: Trial,
    architecture: Architecture,
    task: Task,
    twin: Callable[[Architecture], FrozenTrial | None],
) -> float:
    space, table, budget = task.space, task.table, task.budget
    refusal = space.refusal(architecture)
    _constrain(trial, "valid", -1.0 if refusal is None else 1.0)
    if refusal is not None:
        raise _RefusedError(refusal)

    size_bytes = table.size_bytes(space.parameters(architecture))
    trial.set_user_attr(_SIZE_BYTES, size_bytes)
    if budget.size_bytes is not None:
        _constrain(trial, _SIZE_BYTES, _excess(size_bytes, budget.size_bytes))
        if size_bytes > budget.size_bytes:
            raise _RefusedError(f"{size_bytes} bytes are more than {budget.size_bytes}")

    stages = space.blocks(architecture)
    blocks = [block for stage in stages for block in stage]
    stage_ms = table.lower_bounds_ms(stages)
    # Measuring takes longer than anything else here: not if the known blocks are too slow already.
    if table.knows(blocks) or budget.allows(stage_ms, size_bytes):
        table.require(blocks)
        stage_ms = tuple(latency.ms for latency in table.predict(stages))
        trial.set_user_attr(_STAGE_MS, stage_ms)
    if budget.mean_ms is not None:
        _constrain(trial, "mean_ms", _excess(stage_ms[0], budget.mean_ms))
    if budget.worst_ms is not None:
        _constrain(trial, "worst_ms", _excess(math.fsum(stage_ms), budget.worst_ms))
    if not budget.allows(stage_ms, size_bytes):
        took = " + ".join(f"{ms:.4g}" for ms in stage_ms)
        raise _RefusedError(f"stages of {took} ms are too slow")

    known = twin(architecture)
    if known is not None:
        trial.set_user_attr(_REPEATS, known.number)
        solution = _solution_of(known)
    else:
        try:
            outputs = task.evaluator.evaluate(architecture, seed=task.seed)
        except TrainingError as error:
            _constrain(trial, "trained", 1.0)
            raise _RefusedError(str(error)) from error
        if not np.isfinite(outputs.logits).all():
            _constrain(trial, "trained", 1.0)
            raise _RefusedError("its logits are not finite; train it longer or more gently")
        answers = Answers.of(outputs.logits, outputs.labels, stage_ms, task.signal, None)
        write_answers(task.folder, trial.number, answers)
        solution = solve_answers(answers, mean_ms=budget.mean_ms, signal=task.signal)
    trial.set_user_attr(_SOLUTION, msgspec.to_builtins(solution))
    return solution.accuracy


def result_of(trial: FrozenTrial) -> TrialResult:
    """What a complete trial is worth."""
    return TrialResult(
        number=trial.number,
        architecture=dict(trial.params),
        solution=_solution_of(trial),
        stage_ms=tuple(trial.user_attrs[_STAGE_MS]),
        size_bytes=trial.user_attrs[_SIZE_BYTES],
        repeats=trial.user_attrs.get(_REPEATS),
    )


def _solution_of(trial: FrozenTrial) -> Solution:
    stored: Any = trial.user_attrs[_SOLUTION]
    return msgspec.convert(stored, type=Solution)


def _constrain(trial: Trial, name: str, excess: float) -> None:
    # A trial that was taken up may have it already, and Optuna warns of a second time.
    if name not in trial.constraints:
        trial.set_constraint(name, excess)


class _RefusedError(Exception):
    """The proposal is no network, keeps no budget, or cannot be trained."""


def _excess(value: float, limit: float) -> float:
    """By which part of the limit it is exceeded; negative if it is kept."""
    return value / limit - 1
