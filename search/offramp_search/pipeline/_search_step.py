"""The search of a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from offramp_search.budget import Budget
from offramp_search.devices import HostDevice, LatencyTable, module_key, stages_as_blocks
from offramp_search.engine import confirm, find_feasible, search
from offramp_search.pipeline._samplers import make_sampler
from offramp_search.pipeline._supernet import random_architecture, static_network
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from offramp_search.bases import Base
    from offramp_search.engine import Check, Confirmed, Engine, SearchProgress
    from offramp_search.evaluators import Evaluator
    from offramp_search.pipeline._context import Context
    from offramp_search.spaces import Block, Space

__all__ = [
    "check_budget",
    "describe_check",
    "make_budget",
    "make_table",
    "measure_static",
    "search_architecture",
]

# Enough to know nearly all blocks of a small network; a large one's others are measured when they
# are first proposed.
_ARCHITECTURES_AHEAD = 200
_BLOCKS_AHEAD = 200


def measure_static(context: Context, base: Base, table: LatencyTable) -> float | None:
    """What the static network takes, in milliseconds; weights do not matter, so before training.

    ``None`` if a recorded table lacks it and the budget does without.
    """
    key = module_key(base.module, context.image_shape)
    settings = context.settings
    needed = settings.mean_ms is None and settings.mean_share is not None
    if table.is_recorded and table.network(key) is None and not needed:
        return None
    (latency,) = table.require_network(
        key, lambda: stages_as_blocks(static_network(base).eval(), context.image_shape)
    )
    return latency.median_ms


def check_budget(context: Context, space: Space, budget: Budget, table: LatencyTable) -> None:
    """Measure what the search will need, and end a run whose budget nobody can keep.

    Nothing is trained for it: what a network takes does not depend on its weights.

    Raises:
        InfeasibleBudgetError: No architecture keeps the budget; says the smallest reachable.
    """
    if isinstance(space, StaticTransform) and not table.is_recorded:
        # Its architectures share blocks. Cells hardly do.
        _measure_blocks(context, space, table)
    with context.reporter.progress("Checking the budget") as report:
        find_feasible(space, table, budget, progress=report)


def make_budget(context: Context, static_ms: float | None) -> Budget:
    """The budget of the settings; a share is taken of the static network's measured latency."""
    settings = context.settings
    mean_ms = settings.mean_ms
    if mean_ms is None and settings.mean_share is not None:
        assert static_ms is not None
        mean_ms = settings.mean_share * static_ms
    return Budget(mean_ms=mean_ms, worst_ms=settings.worst_ms, size_bytes=settings.size_bytes)


def search_architecture(
    context: Context,
    space: Space,
    budget: Budget,
    evaluator: Evaluator,
    table: LatencyTable,
    engine: Engine | None = None,
    *,
    answers: str = "labels",
) -> Confirmed:
    """Find the architecture that answers best and keeps the budget; goes on where it was left.

    The one found is measured whole, and another is chosen if predictions mislead; see ``confirm``.

    Args:
        context: What every step needs.
        space: What may be built.
        budget: What is limited.
        evaluator: What gives an architecture its outputs.
        table: Where latencies are looked up.
        engine: Where architectures are evaluated; ``None`` is this process.
        answers: What is answered: ``labels``, or the name of an objective.
    """
    settings = context.settings
    assert settings.method != "unnas"
    sampler = make_sampler(
        settings.method,
        settings.seed,
        space,
        budget,
        table,
        trials=settings.trials,
        landmarks=settings.landmarks,
    )
    with context.reporter.progress("Searching") as report:
        minutes = settings.search_minutes

        def show(progress: SearchProgress) -> None:
            if minutes is None:
                report(progress.done, progress.trials)
            else:
                seconds = math.ceil(60 * minutes)
                report(min(seconds, int(progress.searched_s)), seconds)

        result = search(
            space,
            sampler,
            evaluator,
            table,
            budget,
            trials=settings.trials if minutes is None else None,
            minutes=minutes,
            folder=context.folder / "search",
            seed=settings.seed,
            settings={
                "base": settings.base,
                "data": context.splits.search.sha256,
                "answers": answers,
            },
            engine=engine,
            progress=show,
        )
    found = result.best.solution
    context.reporter.say(
        f"search: {len(result.trials)} architectures, {result.refused} refused; the best has "
        f"{found.accuracy:.1%} at a predicted mean of {found.mean_ms:.3f} ms"
    )
    confirmed = confirm(
        result,
        space,
        table,
        budget,
        folder=context.folder / "search",
        image_shape=context.image_shape,
    )
    for check in confirmed.checks:
        context.reporter.say(describe_check(check))
    chosen = confirmed.result.best
    if chosen.number != result.best.number:
        context.reporter.say(
            f"chosen instead: trial {chosen.number} with {chosen.solution.accuracy:.1%} at "
            f"{chosen.solution.mean_ms:.3f} ms"
        )
    return confirmed


def describe_check(check: Check) -> str:
    """One line on a network that was measured whole."""
    said, took = (
        " + ".join(f"{ms:.3f}" for ms in stage_ms)
        for stage_ms in (check.predicted_ms, check.measured_ms)
    )
    name = "architecture" if check.trial is None else f"trial {check.trial}"
    return f"{name}: predicted {said} ms, measured {took} ms, off by {check.off:.0%}"


def make_table(context: Context) -> LatencyTable:
    """The latency table of this machine, in the precision that the budget counts."""
    settings = context.settings
    return LatencyTable(
        context.folder / "latency",
        HostDevice(),
        precision=settings.latency_precision,
        threads=1,
        runs=settings.latency_runs,
    )


def _measure_blocks(context: Context, space: Space, table: LatencyTable) -> None:
    """Measure the blocks of many architectures together, before the first is proposed.

    One program that holds them all is converted and measured faster than many small ones, and its
    blocks take turns, so that they may be compared.
    """
    generator = np.random.default_rng([context.settings.seed, 1])
    blocks: dict[str, Block] = {}
    for _ in range(_ARCHITECTURES_AHEAD):
        architecture = random_architecture(space, generator)
        new = {block.key: block for stage in space.blocks(architecture) for block in stage}
        if len(blocks | new) > _BLOCKS_AHEAD:
            break
        blocks |= new
    with context.reporter.progress("Measuring blocks") as report:
        table.require(blocks.values(), progress=report)
    context.reporter.say(f"latency table: {len(table)} blocks")
