"""The search of a run that looks at no label."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from offramp._files import write_atomically
from offramp_search.bases import load_base
from offramp_search.data import Splits, read_unlabelled
from offramp_search.evaluators import ObjectiveFineTune, ObjectiveSharedWeights
from offramp_search.objectives import Jigsaw, ObjectiveNetwork, make_objective
from offramp_search.pipeline._carry import choose_carry
from offramp_search.pipeline._context import Context, bind_data, load_splits
from offramp_search.pipeline._relaxed_step import search_relaxed
from offramp_search.pipeline._search_step import (
    check_budget,
    make_budget,
    make_table,
    measure_static,
    search_architecture,
)
from offramp_search.pipeline._space import ASSUMED_CLASSES, make_space
from offramp_search.pipeline._supernet import RandomSelection, random_architecture
from offramp_search.pipeline._train_steps import train_once, warn_of_slow_hardware
from offramp_search.spaces import Cell, StaticTransform

if TYPE_CHECKING:
    from offramp_search.devices import LatencyTable
    from offramp_search.engine import Engine
    from offramp_search.evaluators import Evaluator
    from offramp_search.objectives import Objective
    from offramp_search.pipeline._reporter import Reporter
    from offramp_search.pipeline._settings import Settings
    from offramp_search.spaces import Architecture

__all__ = ["search_label_free"]

_SEARCH_SHARE = 0.1
_FILE = "architecture.json"


def search_label_free(
    settings: Settings,
    folder: Path,
    *,
    cache: Path,
    reporter: Reporter,
    labelled: bool,
    engine: Engine | None = None,
    table: LatencyTable | None = None,
) -> Architecture:
    """Search with an objective that the images answer themselves.

    What is in ``folder`` already is not done again. The architecture is left there as
    ``architecture.json``.

    Args:
        settings: What decides the outcome; ``settings.objective`` is none of ``labels``.
        folder: Where everything is kept.
        cache: Where downloaded images are kept.
        reporter: Who is told how it goes.
        labelled: Whether ``settings.source`` is what the network is trained and certified on later.
            Its calibration and test images are then left alone.
        engine: Where architectures are evaluated; ``None`` is this process.
        table: What the search goes by; ``None`` measures this machine.

    Raises:
        DataError: The images cannot be used.
        DeviceError: This machine has not what is to be trained on.
        ResumeError: The folder holds a search with other settings or on other images.
        InfeasibleBudgetError: No architecture keeps the budget; known before anything is trained.
    """
    settings.hardware.check()
    settings.bind(folder)
    splits = load_splits(settings, cache) if labelled else _split(settings, cache)
    bind_data(splits, folder)
    found = folder / _FILE
    if found.exists():
        reporter.say(f"architecture found in {found.name}")
        return msgspec.json.decode(found.read_bytes(), type=dict[str, str | int])
    context = Context(settings, folder, reporter, splits)
    reporter.say(
        f"{settings.objective}: {len(splits.train)} images to train and {len(splits.search)} to "
        f"search on; no label is looked at"
    )
    warn_of_slow_hardware(context)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(settings.seed)
        base = load_base(
            settings.base,
            num_classes=len(splits.labels) or ASSUMED_CLASSES,
            image_shape=context.image_shape,
            weights=None if settings.base_weights is None else Path(settings.base_weights),
        )
    table = table or make_table(context)
    space = make_space(context, base, choose_carry(context, base, table))
    objective = _objective(context, space)
    static_ms = measure_static(context, base, table)
    budget = make_budget(context, static_ms)
    if static_ms is not None:
        reporter.say(f"static: {static_ms:.3f} ms in {table.precision}")
    check_budget(context, space, budget, table)
    if settings.method == "unnas":
        architecture = search_relaxed(context, space, objective, table, budget)
    else:
        assert isinstance(space, StaticTransform)  # as the settings made sure
        evaluator = _evaluator(context, space, objective)
        architecture = search_architecture(
            context, space, budget, evaluator, table, engine, answers=settings.objective
        ).result.best.architecture
    text = msgspec.json.encode(dict(architecture))
    write_atomically(found, msgspec.json.format(text, indent=2))
    return architecture


def _split(settings: Settings, cache: Path) -> Splits:
    """Images without labels, to train and to search on."""
    images = read_unlabelled(settings.source, folder_cache=cache, image_shape=settings.image_shape)
    order = np.random.default_rng(settings.seed).permutation(len(images))
    held_out = max(1, round(_SEARCH_SHARE * len(images)))
    held_out = min(held_out, settings.search_images or held_out)
    search, train = order[:held_out], order[held_out:]
    none = images.take(order[:0])
    return Splits(
        train=images.take(train[: settings.train_images]),
        search=images.take(search),
        calibration=none,
        test=none,
        labels=(),
    )


def _objective(context: Context, space: StaticTransform | Cell) -> Objective:
    """The objective of the settings; a jigsaw enlarges its tiles where the base takes one size."""
    name = context.settings.objective
    assert name != "labels"
    objective = make_objective(name, context.image_shape)
    if not isinstance(objective, Jigsaw) or isinstance(space, Cell):  # cells take any size
        return objective
    masked = space.masked().eval()
    masked.select(random_architecture(space, np.random.default_rng(0)))
    try:
        with torch.inference_mode():
            masked.exit_reads(torch.zeros(1, *objective.tile_shape, 3), maps=False)
    except RuntimeError:
        context.reporter.say(
            "jigsaw: the base takes images of one size only, so tiles are enlarged to it; a base "
            "with global pooling is several times faster"
        )
        return Jigsaw(context.image_shape, network_shape=context.image_shape)
    return objective


def _evaluator(context: Context, space: StaticTransform, objective: Objective) -> Evaluator:
    settings, splits = context.settings, context.splits
    arguments: dict[str, Any] = {"train": splits.train, "search": splits.search}
    if settings.evaluator == "fine-tune":
        return ObjectiveFineTune(
            space.masked,
            objective,
            recipe=settings.shared_recipe,
            hardware=replace(settings.hardware, devices=1),
            **arguments,
        )
    masked = space.masked()
    network = ObjectiveNetwork(masked, objective, seed=settings.seed)
    train_once(
        context,
        "shared",
        network,
        settings.shared_recipe,
        before_step=RandomSelection(space, masked),
        transform=partial(objective.transform, train=True),
    )
    return ObjectiveSharedWeights(masked.eval(), objective, **arguments)
