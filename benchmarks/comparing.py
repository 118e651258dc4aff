"""Architectures trained alike, and thresholds chosen alike, for benchmarks that compare them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp._files import write_atomically
from offramp.profiling import collect_logits
from offramp.runtimes import open_runtime
from offramp_search.bases import load_base
from offramp_search.data import ImageSet, take_stratified
from offramp_search.evaluators import FineTune, fit_all_exits, recalibrate
from offramp_search.pipeline import random_architecture, static_network
from offramp_search.thresholds import curve, solve
from offramp_search.training import accuracies
from offramp_search.weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from offramp.bundle import Bundle
    from offramp_export.network import MultiStageNetwork
    from offramp_search.budget import Budget
    from offramp_search.data import Splits
    from offramp_search.devices import LatencyTable
    from offramp_search.pipeline import Outcome, Row, Settings
    from offramp_search.spaces import Architecture, StaticTransform
    from offramp_search.thresholds import Solution

__all__ = ["at_equal_accuracy", "draw_within", "judge", "make_trainer"]

FITTING_IMAGES = 5_000


def make_trainer(
    settings: Settings, space: StaticTransform, splits: Splits, shared: Path
) -> FineTune:
    """Trains an architecture from the shared weights, and runs it on both halves.

    Args:
        settings: Whose final recipe is trained by.
        space: What the architectures are from.
        splits: The images; what is calibrated on and what is reported on come after one another.
        shared: File of the shared weights.
    """
    masked = space.masked()
    base = load_base(
        settings.base,
        num_classes=len(splits.labels),
        image_shape=splits.train.image_shape,
        weights=Path(str(settings.base_weights)),
    )
    static = static_network(base).eval()

    def teacher(images: Tensor) -> Tensor:
        logits: tuple[Tensor, ...] = static(images)
        return logits[-1]

    def build(architecture: Architecture) -> MultiStageNetwork:
        load_weights(masked, shared)
        masked.eval().select(architecture)
        images = take_stratified(splits.train, FITTING_IMAGES, seed=settings.seed)
        recalibrate(masked, images.images)
        generator = np.random.default_rng(settings.seed)
        fit_all_exits(masked, images, generator=generator).give_to(masked)
        return space.build(architecture, weights=masked)

    halves = (splits.calibration, splits.test)
    both = ImageSet(
        np.concatenate([half.images for half in halves]),
        np.concatenate([half.labels for half in halves]),
    )
    return FineTune(
        build, train=splits.train, search=both, recipe=settings.final_recipe, teacher=teacher
    )


def _answers(logits: NDArray[np.float32], solution: Solution) -> NDArray[np.int64]:
    """``(images,)`` the exit that each image leaves at."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    confidence = (shifted / shifted.sum(axis=-1, keepdims=True)).max(axis=-1)
    leaves = confidence >= np.array(solution.thresholds)[:, None]
    leaves &= np.array(solution.enabled)[:, None]
    exits: NDArray[np.int64] = leaves.argmax(axis=0)
    return exits


def judge(
    architecture: Architecture,
    trainer: FineTune,
    table: LatencyTable,
    space: StaticTransform,
    splits: Splits,
    mean_ms: float,
    seed: int,
) -> dict[str, Any]:
    """Train one architecture, and say how accurate it is within the budget."""
    stage_ms = [latency.ms for latency in table.predict(space.blocks(architecture))]
    outputs = trainer.evaluate(architecture, seed=seed)
    cut = len(splits.calibration)
    solution = solve(outputs.logits[:, :cut], outputs.labels[:cut], stage_ms, mean_ms=mean_ms)
    logits, labels = outputs.logits[:, cut:], outputs.labels[cut:]
    exits = _answers(logits, solution)
    right = logits[exits, np.arange(len(labels))].argmax(axis=-1) == labels
    return {
        "architecture": dict(architecture),
        "stage_ms": stage_ms,
        "accuracy": float(right.mean()),
        "mean_ms": float(np.cumsum(stage_ms)[exits].mean()),
        "exit_accuracies": accuracies(logits, labels),
        "calibration_accuracy": solution.accuracy,
    }


def draw_within(
    budget: Budget,
    count: int,
    space: StaticTransform,
    table: LatencyTable,
    *,
    seed: int,
    besides: Sequence[Architecture],
) -> list[Architecture]:
    """Random networks that can keep a budget, each another one.

    Args:
        budget: What is limited.
        count: How many.
        space: What they are drawn from.
        table: Where latencies are looked up, and measured if they are missing.
        seed: Of the draws.
        besides: Networks that are not drawn.
    """
    # Different decisions may make one network: what a stage cannot read yet moves to a later one.
    networks = {space.identity(one) for one in besides}
    generator = np.random.default_rng([seed, 5])
    found: list[Architecture] = []
    while len(found) < count:
        architecture = random_architecture(space, generator)
        if space.identity(architecture) in networks:
            continue
        stages = space.blocks(architecture)
        table.require([block for stage in stages for block in stage])
        if budget.allows([latency.ms for latency in table.predict(stages)], 0):
            found.append(architecture)
            networks.add(space.identity(architecture))
    return found


def _fastest_within(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    stage_ms: Sequence[float],
    *,
    accuracy: float,
) -> Solution:
    """The fastest thresholds that are at least so accurate, or the most accurate ones.

    Args:
        logits: ``(exits, images, classes)`` of the images that thresholds are chosen on.
        labels: ``(images,)`` int64.
        stage_ms: What each stage takes, in milliseconds.
        accuracy: A fraction.
    """
    solutions = curve(logits, labels, stage_ms)
    return next((one for one in solutions if one.accuracy >= accuracy), solutions[-1])


def _all_logits(bundle: Bundle, program: str, images: ImageSet, kept: Path) -> NDArray[np.float32]:
    """``(exits, images, classes)``, kept as they are found."""
    if not kept.exists():
        with open_runtime(bundle, program) as runtime:
            write_atomically(kept, collect_logits(runtime, images.images).tobytes())
    found = np.frombuffer(kept.read_bytes(), np.float32)
    return found.reshape(-1, len(images), len(bundle.manifest.labels))


def at_equal_accuracy(
    outcome: Outcome, row: Row, splits: Splits, folder: Path, *, drop: float, trained: Bundle | None
) -> dict[str, float]:
    """The fastest thresholds that lose no more than a drop, chosen on half of the test images.

    Nothing is certified of them. What they come to is counted on the other half; stages are weighed
    as they were measured on their own, and together take what whole predictions did. The drop is
    from the static network as it came, or trained on, whichever is more accurate on the first half.

    Args:
        outcome: Of a run of the pipeline with pretrained weights.
        row: One of its programs.
        splits: Of the run.
        folder: Where logits are kept.
        drop: Of accuracy, a fraction; chosen for the static network's on the calibrated half.
        trained: The static network, trained on by the recipe of the dynamic one.
    """
    program = row.program
    name = program.replace("/", "-")
    halves = {"calibration": splits.calibration, "test": splits.test}
    bundles = {"static": outcome.static, "dynamic": outcome.dynamic}
    if trained is not None:
        bundles["trained"] = trained
    logits = {
        kind: {
            half: _all_logits(bundle, program, images, folder / f"{kind}-{half}-{name}.logits")
            for half, images in halves.items()
        }
        for kind, bundle in bundles.items()
    }
    dynamic = logits.pop("dynamic")
    entry = next(one for one in outcome.dynamic.manifest.latencies if one.program == program)
    medians = np.array([np.median(samples) for samples in entry.stage_samples_ms])
    stage_ms = medians / medians.sum() * row.last_exit.latency.mean_ms
    right = {
        kind: float((found["calibration"][-1].argmax(-1) == splits.calibration.labels).mean())
        for kind, found in logits.items()
    }
    static = logits[max(right, key=right.__getitem__)]
    solution = _fastest_within(
        dynamic["calibration"],
        splits.calibration.labels,
        stage_ms.tolist(),
        accuracy=max(right.values()) - drop,
    )
    exits = _answers(dynamic["test"], solution)
    labels = splits.test.labels
    ours = dynamic["test"][exits, np.arange(len(labels))].argmax(-1) == labels
    theirs = static["test"][-1].argmax(-1) == labels
    mean_ms = float(np.cumsum(stage_ms)[exits].mean())
    return {
        "accuracy": float(ours.mean()),
        "static_accuracy": float(theirs.mean()),
        "drop": float(theirs.mean() - ours.mean()),
        "mean_ms": mean_ms,
        "static_mean_ms": row.static.latency.mean_ms,
        "speedup": row.static.latency.mean_ms / mean_ms,
        **{
            f"exit_{exit}_accuracy": float((answers.argmax(-1) == labels).mean())
            for exit, answers in enumerate(dynamic["test"])
        },
    }
