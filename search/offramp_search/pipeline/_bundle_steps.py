"""From networks to bundles, certificates and measurements."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch

from offramp import Bundle, DynamicClassifier
from offramp._files import write_atomically
from offramp.bundle import LatencyEntry, Provenance
from offramp.calibration import Promises, calibrate
from offramp.latency import Latency
from offramp.policy import choose_exits
from offramp.profiling import collect_logits
from offramp.runtimes import open_runtime
from offramp_export import export
from offramp_export.targets import parse_target
from offramp_search.data import take_stratified
from offramp_search.devices import HostDevice
from offramp_search.pipeline._measure import Measured, measure_interleaved
from offramp_search.thresholds import curve
from offramp_search.weights import read_tensors, write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack

    from numpy.typing import NDArray

    from offramp_export.network import MultiStageNetwork
    from offramp_search.pipeline._context import Context
    from offramp_search.spaces import Architecture

__all__ = [
    "certify",
    "export_once",
    "measure_once",
    "measured_programs",
    "record_latency",
    "search_accuracy",
    "tradeoff",
]

_VECTOR_IMAGES = 16
_QUANTIZATION_IMAGES = 200
_STAGE_RUNS = 100


def measured_programs(context: Context) -> tuple[str, ...]:
    """The programs that run here and are certified and measured: those of LiteRT."""
    return tuple(name for name in context.settings.programs if name.startswith("litert/"))


def export_once(
    context: Context,
    name: str,
    network: MultiStageNetwork,
    programs: Sequence[str],
    architecture: Architecture | None = None,
) -> Bundle:
    """Export a network, unless its bundle is there."""
    path = context.folder / f"{name}.bundle"
    if path.exists():
        context.reporter.say(f"{name}: bundle found in {path.name}")
        return Bundle.open(path)
    settings, splits = context.settings, context.splits
    searched = architecture is not None and settings.architecture is None
    with context.reporter.progress(f"Exporting {name}") as report:
        result = export(
            list(network.stages),
            take_stratified(splits.search, _VECTOR_IMAGES, seed=settings.seed).images,
            [parse_target(program) for program in programs],
            path=path,
            labels=splits.labels,
            calibration_images=take_stratified(
                splits.train, _QUANTIZATION_IMAGES, seed=settings.seed
            ).images,
            provenance=Provenance(
                created_by=f"offramp {version('offramp')}",
                method=settings.method if searched else None,
                seed=settings.seed,
                architecture=dict(architecture or {}),
                base=settings.base,
                data_sha256=splits.train.sha256,
            ),
            progress=report,
        )
    context.reporter.say(f"{name}: {len(result.bundle.manifest.programs)} programs in {path.name}")
    return result.bundle


def record_latency(bundle: Bundle, program: str) -> tuple[Bundle, tuple[Latency, ...]]:
    """Each stage's latency on this machine, measured once and kept in the bundle."""
    device = HostDevice()
    record = dict(device.record())
    for entry in bundle.manifest.latencies:
        if (entry.program, entry.device, entry.threads) == (program, record, 1):
            return bundle, tuple(
                Latency(samples, entry.warmup_runs) for samples in entry.stage_samples_ms
            )
    latencies = device.measure(bundle.path, program, threads=1, runs=_STAGE_RUNS)
    entry = LatencyEntry(
        program=program,
        device=record,
        threads=1,
        stage_samples_ms=tuple(latency.samples_ms for latency in latencies),
        warmup_runs=latencies[0].warmup_runs,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return bundle.add_latency(entry), latencies


def certify(context: Context, bundle: Bundle) -> Bundle:
    """Give every program that runs here a policy, calibrated on the program itself."""
    settings, images = context.settings, context.splits.calibration
    have = {policy.program for policy in bundle.manifest.policies}
    for program in measured_programs(context):
        if program in have:
            continue
        policy = calibrate(
            _calibration_logits(context, bundle, program),
            images.labels,
            program=program,
            promises=Promises(accuracy_drop=settings.limit, confidence=settings.confidence),
            seed=settings.seed,
        ).certified()
        bundle = bundle.add_policy(policy)
        context.reporter.say(f"{program}: {policy.certificates[0].claim}")
    return bundle


def tradeoff(
    context: Context, bundle: Bundle, program: str, last_exit_ms: float
) -> tuple[Bundle, tuple[tuple[float, float], ...]]:
    """What other thresholds would give, on the calibration images: ``(mean_ms, accuracy)``.

    Stages are weighed as they were measured on their own, and together take ``last_exit_ms``, the
    mean of whole predictions, so that the curve lies in the same plot as those.
    """
    bundle, latencies = record_latency(bundle, program)
    chain_ms = sum(latency.median_ms for latency in latencies)
    solutions = curve(
        _calibration_logits(context, bundle, program),
        context.splits.calibration.labels,
        [latency.median_ms * last_exit_ms / chain_ms for latency in latencies],
        temperatures=bundle.policy(program).temperatures,
    )
    return bundle, tuple((solution.mean_ms, solution.accuracy) for solution in solutions)


def _calibration_logits(context: Context, bundle: Bundle, program: str) -> NDArray[np.float32]:
    """Logits of every exit of the program itself on the calibration images."""
    path = context.folder / f"calibration-{program.replace('/', '-')}.safetensors"
    if path.exists():
        return read_tensors(path)[0]["logits"].numpy()
    with (
        context.reporter.progress(f"Calibrating {program}") as report,
        open_runtime(bundle, program) as runtime,
    ):
        logits = collect_logits(runtime, context.splits.calibration.images, progress=report)
    write_tensors(path, {"logits": torch.from_numpy(logits)})
    return logits


def search_accuracy(context: Context, bundle: Bundle, program: str, *, early_exits: bool) -> float:
    """Share of right answers of a program on the search-validation split.

    Args:
        context: The run.
        bundle: Where the program is.
        program: Its name.
        early_exits: Whether its policy lets images leave early; otherwise the last exit answers.
    """
    images = context.splits.search
    with open_runtime(bundle, program) as runtime:
        logits = collect_logits(runtime, images.images)
    answers = logits[-1]
    if early_exits:
        answers = logits[choose_exits(bundle.policy(program), logits), np.arange(len(images))]
    return float((answers.argmax(axis=-1) == images.labels).mean())


def measure_once(
    context: Context,
    classifiers: ExitStack,
    static: Bundle,
    dynamic: Bundle,
    smaller: Mapping[float, Bundle],
) -> Mapping[str, Measured]:
    """Predict the test split with everything, image by image; the only time it is read.

    Three entries per program: ``static NAME``, ``dynamic NAME`` and ``last exit NAME``, the
    dynamic network made to run to its last exit, which is what its certificate is counted from.
    One more for each smaller static network, ``SHARE NAME``.
    """
    path = context.folder / "measured.json"
    if path.exists():
        context.reporter.say(f"measurements found in {path.name}")
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Measured])
    loaded: dict[str, DynamicClassifier] = {}
    for program in measured_programs(context):
        for name, bundle, policy in (
            ("static", static, "last"),
            ("dynamic", dynamic, None),
            ("last exit", dynamic, "last"),
            *((str(share), bundle, "last") for share, bundle in smaller.items()),
        ):
            loaded[f"{name} {program}"] = classifiers.enter_context(
                DynamicClassifier.load(bundle, program=program, policy=policy, threads=1)
            )
    with context.reporter.progress("Measuring") as report:
        measured = measure_interleaved(loaded, context.splits.test, progress=report)
    write_atomically(path, msgspec.json.encode(measured))
    return measured
