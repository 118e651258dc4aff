"""What a state says, in figures a person can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from offramp.monitoring._bound import rate_upper_bound
from offramp.monitoring._confidence import population_stability
from offramp.monitoring._sketch import LatencySketch

if TYPE_CHECKING:
    from offramp.monitoring._state import LatencyState, MonitorState

__all__ = ["DriftSummary", "LatencySummary", "Summary", "summarize"]


@final
@dataclass(frozen=True, slots=True)
class LatencySummary:
    """A latency; the quantiles are within 1 % of a sample.

    Attributes:
        count: Samples.
        mean_ms: Their mean.
        median_ms: Their median.
        p90_ms: Their 90th percentile; ``None`` of fewer than 10.
        p99_ms: Their 99th percentile; ``None`` of fewer than 100.
        largest_ms: The largest.
    """

    count: int
    mean_ms: float
    median_ms: float
    p90_ms: float | None
    p99_ms: float | None
    largest_ms: float


@final
@dataclass(frozen=True, slots=True)
class DriftSummary:
    """The drift alarm of one policy.

    Attributes:
        policy: Its name.
        alarm: Whether there was one.
        alarmed_at: Predictions under this policy at the first alarm.
        alarms: In how many of the monitors added up.
        evidence: How near an alarm is, in nats; at 0 it is raised.
        exit_shares: Of this policy's predictions.
        reference_shares: Of the calibration.
    """

    policy: str
    alarm: bool
    alarmed_at: int | None
    alarms: int
    evidence: float
    exit_shares: tuple[float, ...]
    reference_shares: tuple[float, ...]


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a monitor.

    Attributes:
        predictions: How many there were.
        exit_shares: The share of each exit, over all policies.
        deadline_rate: The share that a deadline cut short.
        mean_confidence: Of the answers of each exit; ``None`` where there is none.
        confidence_psi: Per exit, the population stability index of the last full window;
            ``None`` while there are too few answers.
        stage_latency: Per stage; ``None`` where none has run.
        total_latency: Of whole predictions, shadow runs left out.
        drift: Per policy with exit counts.
        shadow_runs: Images that ran through all stages to compare.
        shadow_disagreements: Those that the last exit would have answered differently.
        shadow_disagreement_bound: The share of all images of which that is true is at most this,
            with a confidence of 95 %.
    """

    predictions: int
    exit_shares: tuple[float, ...]
    deadline_rate: float
    mean_confidence: tuple[float | None, ...]
    confidence_psi: tuple[float | None, ...]
    stage_latency: tuple[LatencySummary | None, ...]
    total_latency: LatencySummary | None
    drift: tuple[DriftSummary, ...]
    shadow_runs: int
    shadow_disagreements: int
    shadow_disagreement_bound: float


def summarize(state: MonitorState) -> Summary:
    """Shares, quantiles, bounds and alarms."""
    per_exit = [0] * state.exits
    late = 0
    for part in state.predictions:
        per_exit[part.exit] += part.count
        late += part.count if part.reason == "deadline" else 0
    total = sum(per_exit)
    answered = [sum(histogram) for histogram in state.confidence]
    return Summary(
        predictions=total,
        exit_shares=_shares(per_exit),
        deadline_rate=late / total if total else 0.0,
        mean_confidence=tuple(
            added / count if count else None
            for added, count in zip(state.confidence_sum, answered, strict=True)
        ),
        confidence_psi=_stability(state),
        stage_latency=tuple(_latency(part) for part in state.stage_latency),
        total_latency=_latency(state.total_latency),
        drift=tuple(
            DriftSummary(
                policy=part.policy,
                alarm=part.alarms > 0,
                alarmed_at=part.alarmed_at,
                alarms=part.alarms,
                evidence=part.evidence,
                exit_shares=_shares(part.counts),
                reference_shares=_shares(part.reference),
            )
            for part in state.drift
        ),
        shadow_runs=state.shadow_runs,
        shadow_disagreements=state.shadow_disagreements,
        shadow_disagreement_bound=rate_upper_bound(state.shadow_disagreements, state.shadow_runs),
    )


def _stability(state: MonitorState) -> tuple[float | None, ...]:
    if not (state.confidence_reference and state.confidence_last):
        return (None,) * state.exits
    pairs = zip(state.confidence_reference, state.confidence_last, strict=True)
    return tuple(population_stability(reference, last) for reference, last in pairs)


def _shares(counts: tuple[int, ...] | list[int]) -> tuple[float, ...]:
    total = sum(counts)
    return tuple(count / total if total else 0.0 for count in counts)


def _latency(state: LatencyState) -> LatencySummary | None:
    sketch = LatencySketch.of(state.buckets, state.sum_ms, state.largest_ms)
    if sketch.count == 0:
        return None
    return LatencySummary(
        count=sketch.count,
        mean_ms=sketch.sum_ms / sketch.count,
        median_ms=sketch.quantile_ms(0.5),
        p90_ms=sketch.quantile_ms(0.9) if sketch.count >= 10 else None,
        p99_ms=sketch.quantile_ms(0.99) if sketch.count >= 100 else None,
        largest_ms=sketch.largest_ms,
    )
