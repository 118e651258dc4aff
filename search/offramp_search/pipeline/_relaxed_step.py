"""The search of a run with relaxed choices."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, final

import msgspec
import numpy as np

from offramp._files import write_atomically
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
    from offramp_search.spaces import Architecture, Cell, StaticTransform

__all__ = ["search_relaxed"]

_ARCHITECTURES = 200
_DERIVED = 20_000
_LATENCY_WEIGHT = 0.3
# A logit that is pushed one way all the time gets so far. The released configuration's two passes
# over ImageNet and its step of 1.5e-4 come to about as much.
_REACH = 3.0
_LEAST_STEP, _MOST_STEP = 1.5e-4, 0.1
_SHARE_THAT_GOES_ON = 0.5
_TIMED_STEPS = 4


def search_relaxed(
    context: Context,
    space: StaticTransform | Cell,
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
    epochs = settings.shared_recipe.epochs + 1  # the choices stay as they are in the first
    if settings.search_minutes is not None:
        plan = _plan(context, space, objective, 60 * settings.search_minutes)
        epochs = plan.epochs
        order = np.random.default_rng([settings.seed, 4]).permutation(len(train))
        train = train.take(order[: plan.images])
        reporter.say(f"relaxed search: time for {epochs} passes over {len(train)} images")
    recipe = _recipe(len(train), epochs)
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
    space: StaticTransform | Cell,
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


def _recipe(images: int, epochs: int) -> RelaxedRecipe:
    batch_size = min(32, max(1, images // 2))
    steps = (epochs - 1) * (images // 2 // batch_size)
    return RelaxedRecipe(
        epochs=epochs,
        batch_size=batch_size,
        choice_learning_rate=min(_MOST_STEP, max(_LEAST_STEP, _REACH / max(1, steps))),
        latency_weight=_LATENCY_WEIGHT,
    )


@final
@dataclass(frozen=True, slots=True)
class _Plan:
    """How many passes over how many images fit into the minutes of a search."""

    epochs: int
    images: int


def _plan(
    context: Context, space: StaticTransform | Cell, objective: Objective, seconds: float
) -> _Plan:
    """What fits by the time of a few steps, which are taken once: a search goes on with its plan.

    Passes over all images if there is time for two, of which the first leaves the choices alone;
    otherwise two passes over as many as there is time for.
    """
    path = context.folder / "relaxed-plan.json"
    if not path.exists():
        train, seed = context.splits.train, context.settings.seed
        batch_size = _recipe(len(train), 2).batch_size
        steps = min(_TIMED_STEPS, len(train) // 2 // batch_size)
        moments = [time.perf_counter()]
        relax(
            RelaxedObjectiveNetwork(space.relaxed(), objective, seed=seed),
            space.decisions(),
            train.take(np.arange(2 * steps * batch_size)),
            transform=lambda images, drawn: objective.transform(images, drawn, train=True),
            recipe=RelaxedRecipe(epochs=2, batch_size=batch_size),
            seed=seed,
            progress=lambda step, total: moments.append(time.perf_counter()),
        )
        taken = np.diff(moments)
        # The first steps allocate, so the least disturbed one counts.
        weights_s, both_s = float(taken[:steps].min()), float(taken[steps:].min())
        all_steps = len(train) // 2 // batch_size
        epochs = 1 + int((seconds / all_steps - weights_s) / both_s)
        if epochs < 2:  # one for the weights alone, one for the choices
            epochs, all_steps = 2, max(1, int(seconds / (weights_s + both_s)))
        plan = _Plan(epochs, min(len(train), 2 * batch_size * all_steps))
        write_atomically(path, msgspec.json.encode(plan))
    return msgspec.json.decode(path.read_bytes(), type=_Plan)


def _fit_latency(
    space: StaticTransform | Cell, table: LatencyTable, budget: Budget, seed: int
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
