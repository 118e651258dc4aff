"""How long a stage takes at most: what a deadline is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from offramp.errors import DeadlineError
from offramp.latency import Latency
from offramp.profiling import device_record

if TYPE_CHECKING:
    from offramp.bundle import Bundle, InputSpec
    from offramp.runtimes import Runtime

__all__ = ["StageLimits", "check_reachable", "find_limits", "measured_limits", "profiled_limits"]

_CONFIDENCE = 0.95
# Without a deadline at load: enough to name a time, not a percentile, and not to be felt.
_RUNS_AT_LOAD = 10
_MOST_MS_AT_LOAD = 20.0
# The fewest runs whose largest bounds a 99th percentile from above with that confidence.
_RUNS_IF_CAREFUL = 299
_MOST_MS_IF_CAREFUL = 2_000.0


@final
@dataclass(frozen=True, slots=True)
class StageLimits:
    """Upper bounds of the 99th percentile of each stage's time, by order statistics.

    Attributes:
        ms: One bound per stage, in milliseconds.
        confidence: The probability, for one stage, that the bound lies above the true 99th
            percentile; ``1 - 0.99 ** runs`` where the bound is the largest of few runs.
        runs: The samples each bound was made from.
        source: ``profile`` if the bundle brings a profile taken on this very device, ``load`` if
            the stages were timed here when the classifier was loaded.
    """

    ms: tuple[float, ...]
    confidence: float
    runs: int
    source: Literal["profile", "load"]


def profiled_limits(bundle: Bundle, program: str, threads: int, engine: str) -> StageLimits | None:
    """The limits by a profile taken on this very device, if the bundle has one that is long enough.

    Args:
        bundle: The bundle.
        program: ``runtime/precision``.
        threads: Threads the kernels use.
        engine: What runs it, as ``Runtime.engine`` says.
    """
    here = device_record(engine)
    for entry in bundle.manifest.latencies:
        if (entry.program, entry.threads, entry.device) == (program, threads, here):
            limits = _limits([Latency(samples) for samples in entry.stage_samples_ms], "profile")
            if limits.confidence >= _CONFIDENCE:
                return limits
    return None


def measured_limits(
    runtime: Runtime,
    input_spec: InputSpec,
    *,
    runs: int = _RUNS_AT_LOAD,
    most_ms: float = _MOST_MS_AT_LOAD,
) -> StageLimits:
    """Time the stages on a black image.

    Args:
        runtime: The program.
        input_spec: Its input.
        runs: How often to run the whole chain.
        most_ms: Start no further chain after so many milliseconds; one is run in any case.
    """
    image = np.zeros((input_spec.height, input_spec.width, 3), np.uint8)
    samples: list[list[float]] = [[] for _ in range(runtime.num_stages)]
    stop = perf_counter() + 1e-3 * most_ms
    while not samples[0] or (len(samples[0]) < runs and perf_counter() < stop):
        runtime.start(image)
        for stage, taken in enumerate(samples):
            began = perf_counter()
            runtime.run(stage)
            taken.append(1e3 * (perf_counter() - began))
    return _limits([Latency(tuple(taken)) for taken in samples], "load")


def find_limits(
    bundle: Bundle, program: str, threads: int, runtime: Runtime, *, careful: bool
) -> StageLimits:
    """The limits by a profile if there is one, else by timing the stages here.

    Args:
        bundle: The bundle.
        program: ``runtime/precision``.
        threads: Threads the kernels use.
        runtime: The program, loaded.
        careful: Take time to state a 99th percentile, because a deadline hangs on it.
    """
    profiled = profiled_limits(bundle, program, threads, runtime.engine)
    if profiled is not None:
        return profiled
    if careful:
        return measured_limits(
            runtime, bundle.manifest.input, runs=_RUNS_IF_CAREFUL, most_ms=_MOST_MS_IF_CAREFUL
        )
    return measured_limits(runtime, bundle.manifest.input)


def check_reachable(deadline_ms: float, limits: StageLimits) -> None:
    """Refuse a deadline that even stage 0 overruns.

    Raises:
        DeadlineError: It does.
    """
    smallest_ms = limits.ms[0]
    if deadline_ms < smallest_ms:
        where = "in the bundle's profile of this device" if limits.source == "profile" else "here"
        raise DeadlineError(
            f"deadline_ms is {deadline_ms:g}, but stage 0 alone takes up to {smallest_ms:.3g} ms "
            f"{where} ({limits.confidence:.0%} confidence limit of its 99th percentile, "
            f"{limits.runs} runs); give at least that, and what decoding takes",
            smallest_ms=smallest_ms,
        )


def _limits(latencies: list[Latency], source: Literal["profile", "load"]) -> StageLimits:
    runs = min(len(latency.samples_ms) for latency in latencies)
    return StageLimits(
        ms=tuple(latency.bound_ms(0.99, _CONFIDENCE) for latency in latencies),
        confidence=min(_CONFIDENCE, 1.0 - 0.99**runs),
        runs=runs,
        source=source,
    )
