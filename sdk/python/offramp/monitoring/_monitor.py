"""The monitor: hand one to a classifier, and ask it whenever you like.

    monitor = Monitor.for_bundle(bundle)
    with DynamicClassifier.load(bundle, monitor=monitor) as classifier:
        ...
    monitor.summary()            # shares, quantiles, alarms
    monitor.prometheus()         # the same for a scraper
    monitor.state()              # the same to keep, or to add up with other processes

The classifier calls ``wants_shadow()`` before an image and ``record(prediction, shadow_index)``
after it (``PredictionMonitor``); without a monitor it calls nothing.
"""

from __future__ import annotations

import random
import threading
from bisect import bisect_left
from typing import TYPE_CHECKING, Self, final

from offramp.errors import DataError
from offramp.monitoring._confidence import CONFIDENCE_EDGES
from offramp.monitoring._drift import DriftAlarm
from offramp.monitoring._prometheus import prometheus_text
from offramp.monitoring._sketch import LatencySketch
from offramp.monitoring._state import DriftState, ExitCount, LatencyState, MonitorState
from offramp.monitoring._summary import summarize
from offramp.policy import top_probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp.bundle import Bundle, Policy
    from offramp.monitoring._base import PredictionLike
    from offramp.monitoring._summary import Summary

__all__ = ["Monitor"]

_BINS = len(CONFIDENCE_EDGES) + 1

# Predictions wait for each other to be counted: one after the other, code and counters are in the
# processor's cache. Between two stage runs they are not, and each would take three times as long.
# With so many, fewer than one call in a hundred does the counting, some third of a millisecond.
_PENDING = 128


@final
class Monitor:
    """Counts what a classifier does, in constant memory; any thread may call it.

    It keeps counts of exits, confidences and latencies, and never an image, a label or a time of
    day. One monitor belongs to one process; states of several add up with ``merge``.

    Args:
        exits: How many exits the network has.
        policies: Those whose exit counts the stream is to be compared with.
        alpha: The chance that a drift alarm is ever raised without a drift, per policy.
        shadow_rate: The share of images that run through all stages although an exit answers;
            each costs the time of the stages left out.
        window: How many predictions a histogram of confidences is compared over.
        seed: Of the choice of shadow runs; ``None`` takes one from the system.
    """

    def __init__(
        self,
        exits: int,
        policies: Sequence[Policy] = (),
        *,
        alpha: float = 0.01,
        shadow_rate: float = 0.01,
        window: int = 1000,
        seed: int | None = None,
    ) -> None:
        if not 0.0 <= shadow_rate <= 1.0 or window < 1 or exits < 1:
            raise ValueError(
                f"{exits} exits, a shadow rate of {shadow_rate} and a window of {window}, "
                "expected at least one exit, a rate between 0 and 1 and at least one prediction"
            )
        self._exits = exits
        self._shadow_rate = shadow_rate
        self._window = window
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._pending: list[tuple[PredictionLike, int | None]] = []
        self._counts: dict[tuple[str, int, str], int] = {}
        self._confidence = _histograms(exits)
        self._confidence_sum = [0.0] * exits
        self._reference: tuple[tuple[int, ...], ...] = ()
        self._recent = _histograms(exits)
        self._recent_count = 0
        self._last: tuple[tuple[int, ...], ...] = ()
        self._stages = [LatencySketch() for _ in range(exits)]
        self._total = LatencySketch()
        self._alarms = {
            policy.name: DriftAlarm(policy.exit_counts, alpha)
            for policy in policies
            if any(policy.exit_counts)
        }
        for name, alarm in self._alarms.items():
            if len(alarm.reference) != exits:
                raise ValueError(
                    f"the policy {name} counts {len(alarm.reference)} exits, expected {exits}"
                )
        self._earlier_alarms = dict.fromkeys(self._alarms, 0)
        self._shadow_runs = 0
        self._disagreements = 0

    @classmethod
    def for_bundle(
        cls,
        bundle: Bundle,
        program: str | None = None,
        *,
        alpha: float = 0.01,
        shadow_rate: float = 0.01,
        window: int = 1000,
        seed: int | None = None,
    ) -> Self:
        """A monitor for a program of a bundle, with all of its policies.

        Args:
            bundle: The bundle.
            program: As in ``DynamicClassifier.load``.
            alpha: As for the class.
            shadow_rate: As for the class.
            window: As for the class.
            seed: As for the class.
        """
        name = bundle.program(program).name
        return cls(
            len(bundle.manifest.stages),
            [policy for policy in bundle.manifest.policies if policy.program == name],
            alpha=alpha,
            shadow_rate=shadow_rate,
            window=window,
            seed=seed,
        )

    def wants_shadow(self) -> bool:
        """Whether the next image should run through all stages."""
        return self._shadow_rate > 0.0 and self._random.random() < self._shadow_rate

    def record(self, prediction: PredictionLike, shadow_index: int | None = None) -> None:
        """Take note of an answer.

        It is counted with those that follow, or when somebody asks, whichever is first.

        Args:
            prediction: The answer; it must not change any more.
            shadow_index: The class that the last exit gives, if the image was a shadow run.

        Raises:
            ValueError: There is no such exit.
        """
        if not 0 <= prediction.exit < self._exits:
            raise ValueError(
                f"the prediction left at exit {prediction.exit}, the monitor is for "
                f"{self._exits} exits; it was made for another bundle"
            )
        with self._lock:
            self._pending.append((prediction, shadow_index))
            if len(self._pending) == _PENDING:
                self._count_pending()

    def _count_pending(self) -> None:
        """Count what waits, in the order in which it came; whoever calls holds the lock."""
        pending, self._pending = self._pending, []
        counts, alarms, recent = self._counts, self._alarms, self._recent
        histograms, sums = self._confidence, self._confidence_sum
        stage_ms: list[list[float]] = [[] for _ in self._stages]
        total_ms = []
        room = self._window - self._recent_count
        confidences = top_probabilities([prediction.evidence() for prediction, _ in pending])
        for (prediction, shadow_index), confidence in zip(pending, confidences, strict=True):
            exit, reason, policy = prediction.exit, prediction.reason, prediction.policy
            key = (policy, exit, reason)
            counts[key] = counts.get(key, 0) + 1
            place = bisect_left(CONFIDENCE_EDGES, confidence)
            histograms[exit][place] += 1
            sums[exit] += confidence
            recent[exit][place] += 1
            room -= 1
            if room <= 0:
                recent, room = self._end_window(), self._window
            for taken, ms in zip(stage_ms, prediction.stage_ms, strict=False):
                taken.append(ms)
            # A deadline cuts some images short, which says nothing of the images.
            if reason != "deadline" and policy in alarms:
                alarms[policy].add(exit)
            if shadow_index is None:
                total_ms.append(prediction.total_ms)
            else:
                self._shadow_runs += 1
                self._disagreements += shadow_index != prediction.index
        for sketch, taken in zip(self._stages, stage_ms, strict=True):
            sketch.extend(taken)
        self._total.extend(total_ms)
        self._recent_count = self._window - room

    @property
    def drifted(self) -> bool:
        """Whether the exits of some policy raised the drift alarm."""
        with self._lock:
            self._count_pending()
            return any(alarm.alarmed for alarm in self._alarms.values())

    def state(self) -> MonitorState:
        """All there is to know, as of now."""
        with self._lock:
            self._count_pending()
            return MonitorState(
                exits=self._exits,
                predictions=tuple(
                    ExitCount(policy=policy, exit=exit, reason=reason, count=count)
                    for (policy, exit, reason), count in sorted(self._counts.items())
                ),
                confidence=_frozen(self._confidence),
                confidence_sum=tuple(self._confidence_sum),
                confidence_reference=self._reference,
                confidence_window=_frozen(self._recent),
                confidence_last=self._last,
                stage_latency=tuple(_latency_state(sketch) for sketch in self._stages),
                total_latency=_latency_state(self._total),
                drift=tuple(self._drift_state(name) for name in sorted(self._alarms)),
                shadow_runs=self._shadow_runs,
                shadow_disagreements=self._disagreements,
            )

    def summary(self) -> Summary:
        """Shares, quantiles, bounds and alarms, as of now."""
        return summarize(self.state())

    def prometheus(self) -> str:
        """The same in the text format of Prometheus, version 0.0.4."""
        return prometheus_text(self.state())

    def restore(self, state: MonitorState) -> None:
        """Go on from a state, in place of what this monitor has seen so far.

        The policies stay those of this monitor: a drift alarm goes on if its policy still has the
        same exit counts, and starts anew otherwise. A state without policies of ours is fine.

        Raises:
            DataError: The state is of another network, or damaged.
        """
        if state.exits != self._exits:
            raise DataError(
                f"the state has {state.exits} exits, the network has {self._exits}; "
                "it was written for another bundle"
            )
        try:
            stages = [_sketch(part) for part in state.stage_latency]
            total = _sketch(state.total_latency)
            alarms, earlier = dict(self._alarms), dict.fromkeys(self._alarms, 0)
            for part in state.drift:
                mine = self._alarms.get(part.policy)
                if mine is not None and mine.reference == part.reference:
                    alarm = DriftAlarm(mine.reference, mine.alpha)
                    alarm.restore(part.counts, part.windows, part.alarmed_at)
                    alarms[part.policy] = alarm
                    earlier[part.policy] = part.alarms - alarm.alarmed
        except ValueError as error:
            raise DataError(f"the state of the monitor is damaged: {error}") from error
        with self._lock:
            self._pending = []
            self._counts = {
                (part.policy, part.exit, part.reason): part.count for part in state.predictions
            }
            self._confidence = [list(part) for part in state.confidence]
            self._confidence_sum = list(state.confidence_sum)
            self._reference = state.confidence_reference
            self._recent = [list(part) for part in state.confidence_window]
            self._recent_count = sum(map(sum, self._recent))
            self._last = state.confidence_last
            self._stages, self._total = stages, total
            self._alarms, self._earlier_alarms = alarms, earlier
            self._shadow_runs = state.shadow_runs
            self._disagreements = state.shadow_disagreements

    def compare_with(self, reference: MonitorState) -> None:
        """Compare histograms of confidence with those of a state, not with the first window.

        Raises:
            DataError: The state is of another network.
        """
        if reference.exits != self._exits:
            raise DataError(
                f"the reference has {reference.exits} exits, the network has {self._exits}"
            )
        with self._lock:
            # The first window may end among them, and be what later ones are compared with.
            self._count_pending()
            self._reference = reference.confidence

    def _end_window(self) -> list[list[int]]:
        """Put the full window aside, and give a new one."""
        window = _frozen(self._recent)
        if self._reference:
            self._last = window
        else:
            self._reference = window
        self._recent = _histograms(self._exits)
        return self._recent

    def _drift_state(self, name: str) -> DriftState:
        alarm = self._alarms[name]
        return DriftState(
            policy=name,
            reference=alarm.reference,
            alpha=alarm.alpha,
            counts=tuple(alarm.counts),
            windows=alarm.windows,
            alarmed_at=alarm.alarmed_at,
            alarms=self._earlier_alarms[name] + alarm.alarmed,
            evidence=alarm.evidence,
        )


def _histograms(exits: int) -> list[list[int]]:
    return [[0] * _BINS for _ in range(exits)]


def _frozen(histograms: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, histograms))


def _latency_state(sketch: LatencySketch) -> LatencyState:
    return LatencyState(
        buckets=sketch.buckets(), sum_ms=sketch.sum_ms, largest_ms=sketch.largest_ms
    )


def _sketch(state: LatencyState) -> LatencySketch:
    return LatencySketch.of(state.buckets, state.sum_ms, state.largest_ms)
