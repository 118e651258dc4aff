"""How long stages, signatures and predictions take: wall-clock, batch 1, samples kept."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp.errors import ProgramError
from offramp.latency import Latency
from offramp.runtimes import LiteRTEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from offramp.classifier import Classifier, DynamicClassifier
    from offramp.images import ImageLike
    from offramp.runtimes import Runtime

__all__ = [
    "MeasuredPredictions",
    "measure_predictions",
    "measure_signatures",
    "measure_stages",
    "measure_throughput",
]

_RUNS_PER_TURN = 10


@final
@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPredictions:
    """What predicting took, image by image.

    Attributes:
        latency: ``total_ms`` of every prediction, in the order of ``exits``.
        exits: ``(predictions,)`` int64, the exit each left at.
        indices: ``(predictions,)`` int64, the class each answered.
        hurried: ``(predictions,)`` bool, whether the deadline chose the exit.
    """

    latency: Latency
    exits: NDArray[np.int64]
    indices: NDArray[np.int64]
    hurried: NDArray[np.bool_]


def measure_stages(
    runtime: Runtime, image: NDArray[np.uint8], *, runs: int = 100, warmup_runs: int = 10
) -> tuple[Latency, ...]:
    """Time each stage of a program, one whole chain after the other.

    Args:
        runtime: A loaded program.
        image: ``(height, width, 3)`` uint8.
        runs: Samples to take of each stage.
        warmup_runs: Chains to run, and throw away, first.

    Returns:
        One latency per stage.
    """
    _check_runs(runs, warmup_runs)
    samples: list[list[float]] = [[] for _ in range(runtime.num_stages)]
    for run in range(-warmup_runs, runs):
        runtime.start(image)
        for stage, taken in enumerate(samples):
            began = perf_counter()
            runtime.run(stage)
            ended = perf_counter()
            if run >= 0:
                taken.append(1e3 * (ended - began))
    return tuple(Latency(tuple(taken), warmup_runs) for taken in samples)


def measure_signatures(
    program: bytes,
    *,
    threads: int = 1,
    runs: int = 50,
    warmup_runs: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Latency]:
    """Time every signature of a LiteRT program by itself.

    The signatures take turns, so that a device that slows down, or a neighbour that wakes up, is
    felt by all alike. A turn is several runs long and its first one does not count: hundreds of
    signatures that alternate would read their weights from memory each time, which a network that
    runs on its own does not.

    Args:
        program: The ``.tflite`` file's content.
        threads: How many threads the kernels may use.
        runs: Samples to take of each signature.
        warmup_runs: Runs of each signature to make, and throw away, first.
        progress: Called with the number of turns done and the number in all.

    Returns:
        Signature name -> latency, in the order of the file.

    Raises:
        ProgramError: LiteRT refused the program.
    """
    _check_runs(runs, warmup_runs)
    engine = LiteRTEngine(program, threads=threads)
    generator = np.random.default_rng(0)
    bound: dict[str, Callable[[], int]] = {}
    for signature in engine.signatures():
        inputs = engine.buffers(signature.inputs)
        for buffer, (dtype, shape) in zip(inputs, signature.inputs, strict=True):
            buffer.array[...] = _random(generator, dtype, shape)
        bound[signature.name], _ = engine.bind(signature, inputs)
    samples: dict[str, list[float]] = {name: [] for name in bound}
    turns = [min(_RUNS_PER_TURN, runs - done) for done in range(0, runs, _RUNS_PER_TURN)]
    with engine:
        for name, call in bound.items():
            for _ in range(1 + warmup_runs):
                status = call()
                if status:
                    raise ProgramError(f"LiteRT could not run {name}: status {status}")
        for turn, runs_in_turn in enumerate(turns):
            for name, call in bound.items():
                call()
                for _ in range(runs_in_turn):
                    began = perf_counter()
                    call()
                    ended = perf_counter()
                    samples[name].append(1e3 * (ended - began))
            if progress is not None:
                progress(turn + 1, len(turns))
    return {name: Latency(tuple(taken), warmup_runs) for name, taken in samples.items()}


def measure_predictions(
    classifier: DynamicClassifier,
    images: Sequence[ImageLike] | NDArray[np.uint8],
    *,
    rounds: int = 1,
    warmup_runs: int = 10,
    deadline_ms: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MeasuredPredictions:
    """Time whole predictions, which really stop early.

    Args:
        classifier: With the policy to measure.
        images: What to predict, at least one; arrays of the input's size leave decoding out.
        rounds: How often to go through all images.
        warmup_runs: Predictions to make, and throw away, first.
        deadline_ms: As in ``DynamicClassifier.predict``.
        progress: Called with the number of predictions done and the number in all.
    """
    _check_runs(rounds, warmup_runs)
    if len(images) == 0:
        raise ValueError("there is no image to predict; expected at least one")
    for run in range(warmup_runs):
        classifier.predict(images[run % len(images)], deadline_ms=deadline_ms)
    total = rounds * len(images)
    times: list[float] = []
    exits: list[int] = []
    indices: list[int] = []
    hurried: list[bool] = []
    for run in range(total):
        prediction = classifier.predict(images[run % len(images)], deadline_ms=deadline_ms)
        times.append(prediction.total_ms)
        exits.append(prediction.exit)
        indices.append(prediction.index)
        hurried.append(prediction.reason == "deadline")
        if progress is not None:
            progress(run + 1, total)
    return MeasuredPredictions(
        Latency(tuple(times), warmup_runs),
        np.array(exits, dtype=np.int64),
        np.array(indices, dtype=np.int64),
        np.array(hurried, dtype=np.bool_),
    )


def measure_throughput(
    classifier: Classifier, images: Sequence[ImageLike] | NDArray[np.uint8], *, rounds: int = 3
) -> dict[int, float]:
    """Images per second of ``predict_many``, with one worker and with all of the classifier's.

    The two take turns over the same images, and the first turn of each warms up.

    Args:
        classifier: With the policy to measure.
        images: What to predict, at least one.
        rounds: Turns of each that count; their median is given.

    Returns:
        Workers -> images per second.
    """
    _check_runs(rounds, 1)
    if len(images) == 0:
        raise ValueError("there is no image to predict; expected at least one")
    rates: dict[int, list[float]] = {1: [], classifier.workers: []}
    for turn in range(-1, rounds):
        for workers, taken in rates.items():
            began = perf_counter()
            for _ in classifier.predict_many(images, workers=workers):
                pass
            if turn >= 0:
                taken.append(len(images) / (perf_counter() - began))
    return {workers: float(np.median(taken)) for workers, taken in rates.items()}


def _check_runs(runs: int, warmup_runs: int) -> None:
    if runs < 1 or warmup_runs < 0:
        raise ValueError(
            f"{runs} runs after {warmup_runs} warm-up runs, expected at least 1 after at least 0"
        )


def _random(generator: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if np.issubdtype(np.dtype(dtype), np.integer):
        bounds = np.iinfo(dtype)
        return generator.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)
    # Zeros would be kind to sparse kernels, and tiny numbers cruel to all of them.
    return generator.standard_normal(shape).astype(dtype)
