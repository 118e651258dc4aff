"""The steps in their order."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from offramp.calibration import Promises, split_images
from offramp.errors import DataError
from offramp_search.data import open_source
from offramp_search.evaluators import FineTune, SharedWeights
from offramp_search.pipeline._bundle_steps import (
    certify,
    export_once,
    measure_once,
    measured_programs,
    record_latency,
    search_accuracy,
    tradeoff,
)
from offramp_search.pipeline._carry import choose_carry
from offramp_search.pipeline._context import Context, bind_data, load_splits
from offramp_search.pipeline._outcome import Outcome, make_rows
from offramp_search.pipeline._reporter import Reporter
from offramp_search.pipeline._search_step import (
    check_budget,
    make_budget,
    make_table,
    measure_static,
    search_architecture,
)
from offramp_search.pipeline._smaller import Smaller, equally_accurate, make_smaller
from offramp_search.pipeline._space import make_space
from offramp_search.pipeline._supernet import LastExit
from offramp_search.pipeline._train_steps import (
    load_static,
    train_base,
    train_final,
    train_new,
    train_shared,
    warn_of_slow_hardware,
)
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from pathlib import Path

    from offramp_search.devices import LatencyTable
    from offramp_search.engine import Engine
    from offramp_search.evaluators import Evaluator
    from offramp_search.pipeline._settings import Settings
    from offramp_search.spaces import Architecture, Space

__all__ = ["run_pipeline"]

_FITTING_IMAGES, _HEADED_IMAGES = 1_500, 3_000
"""To fit the exits of an architecture to before it is judged; heads learn from more."""


def run_pipeline(
    settings: Settings,
    folder: Path,
    *,
    cache: Path,
    reporter: Reporter | None = None,
    engine: Engine | None = None,
    table: LatencyTable | None = None,
) -> Outcome:
    """Train, search, export, certify and measure.

    Every step leaves a file in ``folder`` and is not done again when the run is repeated, so a
    run that was killed goes on where it was.

    Args:
        settings: What decides the outcome.
        folder: Where everything is kept; it belongs to these settings from then on.
        cache: Where downloaded images are kept.
        reporter: Who is told how it goes.
        engine: Where architectures are evaluated; ``None`` is this process.
        table: What the search goes by; ``None`` measures this machine. What is found is in any
            case certified, and timed image by image, on this machine.

    Raises:
        DataError: The images cannot be used.
        DeviceError: This machine has not what is to be trained on.
        TooFewImagesError: The calibration split is too small for the certificate.
        ResumeError: The folder holds a run with other settings or on other images.
        InfeasibleBudgetError: No architecture keeps the budget; known before anything is trained.
    """
    reporter = reporter or Reporter()
    settings.hardware.check()
    open_source(settings.source, folder_cache=cache)  # a misspelt one is refused before all else
    settings.bind(folder)
    splits = load_splits(settings, cache)
    bind_data(splits, folder)
    # Asked here, since the certificate comes last: too few images are not worth hours of training.
    promises = Promises(accuracy_drop=settings.limit, confidence=settings.confidence)
    split_images(len(splits.calibration), promises)
    context = Context(settings, folder, reporter, splits)
    reporter.say(
        f"data: {len(splits.train)} images to train, {len(splits.search)} to search, "
        f"{len(splits.calibration)} to calibrate, {len(splits.test)} to test on, "
        f"{len(splits.labels)} classes"
    )

    warn_of_slow_hardware(context)
    base = load_static(context)
    table = table or make_table(context)
    carry = choose_carry(context, base, table)
    space = make_space(context, base, carry)
    if settings.architecture is not None:
        _check(settings.architecture, space)
    static_ms = measure_static(context, base, table)
    budget = make_budget(context, static_ms)
    took = "" if static_ms is None else f"static: {static_ms:.3f} ms in {table.precision}; "
    reporter.say(f"{took}budget {_describe(budget)}")
    if settings.architecture is None:
        check_budget(context, space, budget, table)

    static = train_base(context, base)
    programs = measured_programs(context)
    counted = f"litert/{settings.latency_precision}"
    static_bundle = export_once(
        context, "static", static, tuple(dict.fromkeys((counted, *programs)))
    )
    static_bundle, _ = record_latency(static_bundle, counted)
    space = make_space(context, base, carry)  # which begins with the weights the base has by now
    masked = None
    evaluator: Evaluator
    if isinstance(space, StaticTransform):
        masked = train_shared(context, space, static)
        evaluator = SharedWeights(
            masked,
            train=splits.train,
            search=splits.search,
            fitting_images=_HEADED_IMAGES if settings.exit_head_channels else _FITTING_IMAGES,
        )
    else:
        evaluator = FineTune(
            space.build,
            train=splits.train,
            search=splits.search,
            recipe=settings.shared_recipe,
            teacher=LastExit(static),
            hardware=replace(settings.hardware, devices=1),
        )
    confirmed, architecture = None, settings.architecture
    if architecture is None:
        confirmed = search_architecture(context, space, budget, evaluator, table, engine)
        architecture = confirmed.result.best.architecture
    if isinstance(space, StaticTransform) and masked is not None:
        network = train_final(context, space, masked, architecture, static)
    else:
        network = train_new(context, space, architecture, static)

    dynamic_bundle = export_once(context, "dynamic", network, settings.programs, architecture)
    dynamic_bundle = certify(context, dynamic_bundle)
    smaller: tuple[Smaller, ...] = ()
    if isinstance(space, StaticTransform) and masked is not None:
        smaller = make_smaller(context, space, masked, static, programs)
    equal_shares = {}
    for program in programs if smaller else ():
        accuracy = search_accuracy(context, dynamic_bundle, program, early_exits=True)
        equal_shares[program] = equally_accurate(smaller, program, accuracy)
    with ExitStack() as classifiers:
        measured = measure_once(
            context,
            classifiers,
            static_bundle,
            dynamic_bundle,
            {one.share: one.bundle for one in smaller},
        )
    rows = make_rows(measured, dynamic_bundle, programs, settings.smaller_shares, equal_shares)
    curves = {}
    for row in rows:
        dynamic_bundle, curves[row.program] = tradeoff(
            context, dynamic_bundle, row.program, row.last_exit.latency.mean_ms
        )
    return Outcome(
        static=static_bundle,
        dynamic=dynamic_bundle,
        budget=budget,
        static_ms=static_ms,
        architecture=architecture,
        confirmed=confirmed,
        rows=rows,
        curves=curves,
    )


def _check(architecture: Architecture, space: Space) -> None:
    """Refuse an architecture given by the user before anything is trained."""
    try:
        fault = space.refusal(architecture)
    except ValueError as error:
        fault = str(error)
    if fault is not None:
        raise DataError(f"the architecture given makes no network: {fault}; give another")


def _describe(budget: object) -> str:
    limits = {name: getattr(budget, name) for name in ("mean_ms", "worst_ms", "size_bytes")}
    return ", ".join(f"{name} {limit:.6g}" for name, limit in limits.items() if limit is not None)
