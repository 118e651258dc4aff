"""All that a monitor knows, as data: to keep, to send, to add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from offramp.errors import DataError
from offramp.monitoring._confidence import CONFIDENCE_EDGES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DriftState",
    "ExitCount",
    "LatencyState",
    "MonitorState",
    "decode_state",
    "encode_state",
]

Unsigned = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Milliseconds = Annotated[float, Meta(ge=0.0)]
Counts = tuple[Unsigned, ...]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Strict and immutable."""


class ExitCount(_Struct, frozen=True, kw_only=True):
    """How often an exit answered for one reason under one policy."""

    policy: str
    exit: Unsigned
    reason: str
    count: Unsigned


class LatencyState(_Struct, frozen=True, kw_only=True):
    """A latency sketch; ``buckets`` are number and count of those in use."""

    buckets: tuple[tuple[Unsigned, Unsigned], ...] = ()
    sum_ms: Milliseconds = 0.0
    largest_ms: Milliseconds = 0.0


class DriftState(_Struct, frozen=True, kw_only=True):
    """The drift alarm of one policy.

    Attributes:
        policy: Its name.
        reference: Exit counts of the calibration.
        alpha: The chance of a false alarm.
        counts: Exit counts seen.
        windows: Per length, the number of the window and the counts when it started.
        alarmed_at: Predictions seen at the first alarm.
        alarms: In how many of the monitors added up there was an alarm.
        evidence: How near an alarm is, in nats; 0 and above is one.
    """

    policy: str
    reference: Counts
    alpha: float
    counts: Counts
    windows: tuple[tuple[Positive, Counts], ...]
    alarmed_at: Unsigned | None
    alarms: Unsigned
    evidence: float


class MonitorState(_Struct, frozen=True, kw_only=True):
    """What a monitor has seen. It holds counts, and nothing of any image.

    Attributes:
        format_version: Of this structure.
        exits: How many the network has.
        predictions: Counts by policy, exit and reason.
        confidence: Per exit, the histogram of its answers' confidence.
        confidence_sum: Per exit, the sum of these.
        confidence_reference: Per exit, the histogram that others are compared with; empty while
            the first window is being filled.
        confidence_window: Per exit, the window being filled.
        confidence_last: Per exit, the last full window.
        stage_latency: Per stage.
        total_latency: Of whole predictions, shadow runs left out.
        drift: Per policy with exit counts.
        shadow_runs: Images chosen for a shadow run.
        shadow_disagreements: Those that the last exit would have answered differently.
    """

    format_version: Literal[1] = 1
    exits: Positive
    predictions: tuple[ExitCount, ...]
    confidence: tuple[Counts, ...]
    confidence_sum: tuple[float, ...]
    confidence_reference: tuple[Counts, ...]
    confidence_window: tuple[Counts, ...]
    confidence_last: tuple[Counts, ...]
    stage_latency: tuple[LatencyState, ...]
    total_latency: LatencyState
    drift: tuple[DriftState, ...]
    shadow_runs: Unsigned
    shadow_disagreements: Unsigned


def encode_state(state: MonitorState) -> bytes:
    """The state as JSON."""
    return msgspec.json.encode(state) + b"\n"


def decode_state(data: bytes, name: str = "the monitor state") -> MonitorState:
    """Read a state that ``encode_state`` wrote.

    Args:
        data: JSON.
        name: What to call it in an error.

    Raises:
        DataError: It is something else.
    """
    try:
        state = msgspec.json.decode(data, type=MonitorState)
    except msgspec.DecodeError as error:
        raise DataError(f"{name} is no state of a monitor: {error}") from error
    per_exit: tuple[Sequence[object], ...] = (
        state.confidence,
        state.confidence_sum,
        state.confidence_window,
        state.stage_latency,
        *((state.confidence_reference,) if state.confidence_reference else ()),
        *((state.confidence_last,) if state.confidence_last else ()),
    )
    histograms = (
        *state.confidence,
        *state.confidence_window,
        *state.confidence_reference,
        *state.confidence_last,
    )
    if (
        any(len(values) != state.exits for values in per_exit)
        or any(len(part.counts) != state.exits for part in state.drift)
        or any(part.exit >= state.exits for part in state.predictions)
        or any(len(histogram) != len(CONFIDENCE_EDGES) + 1 for histogram in histograms)
    ):
        raise DataError(f"{name} contradicts itself: {state.exits} exits, but not of everything")
    return state
