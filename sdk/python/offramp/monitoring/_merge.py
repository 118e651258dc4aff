"""Adding up the monitors of several processes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from offramp.errors import DataError
from offramp.monitoring._drift import DriftAlarm
from offramp.monitoring._state import DriftState, ExitCount, LatencyState, MonitorState

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["merge"]


def merge(states: Sequence[MonitorState]) -> MonitorState:
    """What one monitor would have seen, had it heard all of them.

    Counts, histograms and latencies add up exactly. Drift alarms do not, since streams are judged
    one by one: the sum has an alarm if one of them had, says in how many, and its windows start
    anew. The chance of a false alarm is then ``alpha`` for each state. Of the histograms of
    confidence the reference is the sum of all references.

    Args:
        states: At least one, all of one network.

    Raises:
        DataError: There is none, or they are of different networks or policies.
    """
    if len({state.exits for state in states}) != 1:
        exits = sorted({state.exits for state in states})
        raise DataError(
            f"the states have {', '.join(map(str, exits)) or 'no'} exits, expected one network"
        )
    if len(states) == 1:
        return states[0]
    counts: Counter[tuple[str, int, str]] = Counter()
    for state in states:
        for part in state.predictions:
            counts[part.policy, part.exit, part.reason] += part.count
    return MonitorState(
        exits=states[0].exits,
        predictions=tuple(
            ExitCount(policy=policy, exit=exit, reason=reason, count=count)
            for (policy, exit, reason), count in sorted(counts.items())
        ),
        confidence=_sum([state.confidence for state in states]),
        confidence_sum=tuple(
            map(sum, zip(*(state.confidence_sum for state in states), strict=True))
        ),
        confidence_reference=_sum([state.confidence_reference for state in states]),
        confidence_window=_sum([state.confidence_window for state in states]),
        confidence_last=_sum([state.confidence_last for state in states]),
        stage_latency=tuple(
            map(_latency, zip(*(state.stage_latency for state in states), strict=True))
        ),
        total_latency=_latency([state.total_latency for state in states]),
        drift=tuple(
            _drift([part for state in states for part in state.drift if part.policy == policy])
            for policy in sorted({part.policy for state in states for part in state.drift})
        ),
        shadow_runs=sum(state.shadow_runs for state in states),
        shadow_disagreements=sum(state.shadow_disagreements for state in states),
    )


def _sum(histograms: Sequence[Sequence[Sequence[int]]]) -> tuple[tuple[int, ...], ...]:
    """Bin by bin; those that are empty as yet are left out."""
    there = [per_exit for per_exit in histograms if per_exit]
    return tuple(
        tuple(map(sum, zip(*same_exit, strict=True))) for same_exit in zip(*there, strict=True)
    )


def _latency(parts: Sequence[LatencyState]) -> LatencyState:
    buckets: Counter[int] = Counter()
    for part in parts:
        for place, count in part.buckets:
            buckets[place] += count
    return LatencyState(
        buckets=tuple(sorted(buckets.items())),
        sum_ms=sum(part.sum_ms for part in parts),
        largest_ms=max(part.largest_ms for part in parts),
    )


def _drift(parts: Sequence[DriftState]) -> DriftState:
    first = parts[0]
    if any(part.reference != first.reference for part in parts):
        raise DataError(
            f"the states compare the policy {first.policy} with different exit counts; "
            "they were written for different bundles"
        )
    counts = tuple(map(sum, zip(*(part.counts for part in parts), strict=True)))
    # Every window goes on with a number that none of them has used.
    fresh = DriftAlarm(first.reference, first.alpha).windows
    numbers = [
        max(part.windows[scale][0] for part in parts if scale < len(part.windows)) + 1
        for scale in range(len(fresh))
    ]
    alarmed = [part.alarmed_at for part in parts if part.alarmed_at is not None]
    return DriftState(
        policy=first.policy,
        reference=first.reference,
        alpha=first.alpha,
        counts=counts,
        windows=tuple((number, counts) for number in numbers),
        alarmed_at=min(alarmed, default=None),
        alarms=sum(part.alarms for part in parts),
        evidence=max(part.evidence for part in parts),
    )
