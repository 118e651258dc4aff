"""The search of a run with relaxed choices."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from offramp.errors import InfeasibleBudgetError
from offramp_search.devices import network_key
from offramp_search.engine import Check, corrected, measure_whole
from offramp_search.pipeline._samplers import Limits
from offramp_search.pipeline._search_step import describe_check
from offramp_search.pipeline._supernet import random_architecture
from offramp_search.relaxed import (
    AdditiveLatency,
    RelaxedObjectiveNetwork,
    RelaxedRecipe,
    by_probability,
    relax,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp_search.budget import Budget
    from offramp_search.devices import LatencyTable
    from offramp_search.objectives import Objective
    from offramp_search.pipeline._context import Context
    from offramp_search.spaces import Architecture, StaticTransform

__all__ = ["search_relaxed"]

_ARCHITECTURES = 200
_DERIVED = 20_000
_LATENCY_WEIGHT = 0.3
# A logit that is pushed one way all the time gets so far. The released configuration's two passes
# over ImageNet and its step of 1.5e-4 come to about as much.
_REACH = 3.0
_LEAST_STEP, _MOST_STEP = 1.5e-4, 0.1
_SHARE_THAT_GOES_ON = 0.5


def search_relaxed(
    context: Context,
    space: StaticTransform,
    objective: Objective,
    table: LatencyTable,
    budget: Budget,
) -> Architecture:
    """The most probable architecture that keeps the budget, after DARTS; goes on where it was.

    It is measured whole, and passed over if it breaks the budget then.

    Raises:
        InfeasibleBudgetError: None of the twenty thousand most probable ones keeps it.
    """
    settings, reporter = context.settings, context.reporter
    train = context.splits.train
    shared = settings.shared_recipe
    epochs = shared.epochs + 1  # the choices stay as they are in the first
    batch_size = min(32, max(1, len(train) // 2))
    steps = shared.epochs * (len(train) // 2 // batch_size)
    recipe = RelaxedRecipe(
        epochs=epochs,
        batch_size=batch_size,
        choice_learning_rate=min(_MOST_STEP, max(_LEAST_STEP, _REACH / max(1, steps))),
        latency_weight=_LATENCY_WEIGHT,
    )
    network = RelaxedObjectiveNetwork(space.relaxed(), objective, seed=settings.seed)
    latency = _fit_latency(space, table, budget, settings.seed)
    if latency is not None:
        reporter.say(
            f"latency as a sum over choices explains {latency.explained:.0%} of its variance"
        )
    with reporter.progress("Relaxed search") as report:
        probabilities = relax(
            network,
            space.decisions(),
            train,
            transform=lambda images, drawn: objective.transform(images, drawn, train=True),
            recipe=recipe,
            latency=latency,
            checkpoint=context.folder / "relaxed.checkpoint.safetensors",
            seed=settings.seed,
            progress=report,
        )
    limits = Limits(space, budget, table)
    closest = math.inf, math.inf
    checks: list[Check] = []
    for rank, architecture in enumerate(
        islice(by_probability(space.decisions(), probabilities), _DERIVED)
    ):
        found = limits.tightest(architecture)
        if found[0] <= 1:
            table.require([block for stage in space.blocks(architecture) for block in stage])
            found, check = _take(context, space, table, limits, architecture, checks)
            if check is not None:
                checks.append(check)
                reporter.say(describe_check(check))
            if found[0] <= 1:
                reporter.say(f"relaxed search: number {rank + 1} by probability keeps the budget")
                return architecture
        closest = min(closest, found)
    share, smallest = closest
    raise InfeasibleBudgetError(
        f"none of the {_DERIVED} most probable architectures keeps the budget: the best takes "
        f"{share:.3g} times what is allowed; raise the limits, or use another --method",
        smallest=smallest,
    )


def _take(
    context: Context,
    space: StaticTransform,
    table: LatencyTable,
    limits: Limits,
    architecture: Architecture,
    checks: Sequence[Check],
) -> tuple[tuple[float, float], Check | None]:
    """What an architecture takes: measured whole if its prediction, corrected, keeps the budget.

    Predictions are corrected by the largest ratios seen, so that few networks are measured.
    """
    blocks = space.blocks(architecture)
    predicted = tuple(stage.ms for stage in table.predict(blocks))
    factors = corrected(checks, space.num_stages, max)
    said = tuple(ms * by for ms, by in zip(predicted, factors, strict=True))
    found = limits.tightest(architecture, said)
    if found[0] > 1:
        return found, None
    measured = measure_whole(space, table, architecture, network_key(blocks), context.image_shape)
    if measured is None:
        return found, None
    check = Check(None, dict(architecture), predicted, measured)
    return limits.tightest(architecture, measured), check


def _fit_latency(
    space: StaticTransform, table: LatencyTable, budget: Budget, seed: int
) -> AdditiveLatency | None:
    """Of the limit on mean latency if there is one, or else of that on the worst."""
    limit = budget.mean_ms if budget.mean_ms is not None else budget.worst_ms
    if limit is None:
        return None
    generator = np.random.default_rng([seed, 3])
    architectures = [random_architecture(space, generator) for _ in range(_ARCHITECTURES)]
    share = 1.0 if budget.mean_ms is None else _SHARE_THAT_GOES_ON
    ms = []
    for architecture in architectures:
        stages = table.lower_bounds_ms(space.blocks(architecture))
        ms.append(math.fsum(part * share**stage for stage, part in enumerate(stages)))
    return AdditiveLatency.fit(space.decisions(), architectures, ms, limit_ms=limit)
