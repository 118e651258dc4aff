"""A monitor counts, remembers, adds up, and tells."""

from __future__ import annotations

import math
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp.errors import DataError
from offramp.monitoring import (
    CONFIDENCE_EDGES,
    DriftAlarm,
    Monitor,
    decode_state,
    encode_state,
    merge,
    population_stability,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp.bundle import Policy
    from offramp.monitoring import MonitorState


def _stream(answer: Any, count: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    exits = rng.choice(3, count, p=[0.6, 0.3, 0.1]).tolist()
    scores = rng.uniform(0.3, 1.0, count).tolist()
    times = rng.lognormal(0, 1, (count, 4)).tolist()
    return [
        answer(
            exit=exit,
            index=number % 5,
            reason="last_exit" if exit == 2 else "deadline" if number % 50 == 0 else "confident",
            score=score,
            stage_ms=tuple(row[: exit + 1]),
            total_ms=sum(row),
        )
        for number, (exit, score, row) in enumerate(zip(exits, scores, times, strict=True))
    ]


def _watched(monitor: Monitor, stream: list[Any]) -> Monitor:
    for number, prediction in enumerate(stream):
        monitor.record(
            prediction, prediction.index ^ (number % 40 == 0) if number % 8 == 0 else None
        )
    return monitor


def test_figures(answer: Any, counted_policy: Callable[..., Policy]) -> None:
    stream = _stream(answer, 4000)
    figures = _watched(Monitor(3, [counted_policy()], window=1000), stream).summary()
    assert figures.predictions == 4000
    exits = np.array([prediction.exit for prediction in stream])
    assert figures.exit_shares == tuple((np.bincount(exits) / 4000).tolist())
    late = sum(prediction.reason == "deadline" for prediction in stream)
    assert figures.deadline_rate == late / 4000
    for exit in range(3):
        scores = [prediction.score for prediction in stream if prediction.exit == exit]
        assert figures.mean_confidence[exit] == pytest.approx(np.mean(scores))
        times = [prediction.stage_ms[exit] for prediction in stream if prediction.exit >= exit]
        latency = figures.stage_latency[exit]
        assert latency is not None
        assert latency.count == len(times)
        assert latency.mean_ms == pytest.approx(np.mean(times))
        assert latency.largest_ms == max(times)
        assert latency.median_ms == pytest.approx(
            sorted(times)[math.ceil(0.5 * len(times)) - 1], rel=0.011
        )
    assert figures.total_latency is not None
    assert figures.total_latency.count == 3500, "shadow runs take longer and are left out"
    assert (figures.shadow_runs, figures.shadow_disagreements) == (500, 100)
    assert 0.2 < figures.shadow_disagreement_bound < 0.24
    (drift,) = figures.drift
    assert not drift.alarm
    assert sum(drift.exit_shares) == pytest.approx(1)
    assert drift.reference_shares == (0.6, 0.3, 0.1)
    assert all(value is not None and value < 0.2 for value in figures.confidence_psi[:2])


def test_deadlines_say_nothing_of_drift(answer: Any, counted_policy: Callable[..., Policy]) -> None:
    monitor = Monitor(3, [counted_policy()])
    for _ in range(3000):
        monitor.record(answer(exit=0, reason="deadline"))
    assert not monitor.drifted
    for _ in range(300):
        monitor.record(answer(exit=2, reason="last_exit"))
    assert monitor.drifted


def test_each_policy_has_its_own_alarm(answer: Any, counted_policy: Callable[..., Policy]) -> None:
    thrifty = counted_policy("thrifty", exit_counts=(950, 40, 10))
    monitor = Monitor(3, [counted_policy(), thrifty, counted_policy("uncounted", ())])
    for number in range(1000):
        monitor.record(answer(exit=0, policy="thrifty"))
        monitor.record(answer(exit=(0, 0, 1, 0, 0, 1, 0, 1, 2, 0)[number % 10]))
        monitor.record(answer(exit=2, policy="last"))
        monitor.record(answer(exit=2, policy="uncounted"))
    assert {part.policy: part.alarm for part in monitor.summary().drift} == {
        "default": False,
        "thrifty": True,
    }


def test_a_change_of_confidence_shows(answer: Any) -> None:
    monitor = Monitor(2, window=1000)
    rng = np.random.default_rng(0)

    def window(low: float) -> float | None:
        for score in rng.uniform(low, 1.0, 1000).tolist():
            monitor.record(answer(score=score))
        return monitor.summary().confidence_psi[0]

    assert window(0.5) is None, "the first window is what others are compared with"
    same = window(0.5)
    assert same is not None
    assert same < 0.05
    changed = window(0.0)
    assert changed is not None
    assert changed > 0.5
    assert monitor.summary().confidence_psi[1] is None, "no answer, no figure"


def test_stability_index() -> None:
    assert population_stability([500, 500], [500, 500]) == 0
    expected = (0.75 - 0.25) * math.log(3) * 2
    assert population_stability([7500, 2500], [2500, 7500]) == pytest.approx(expected, rel=1e-3)
    assert population_stability([10, 10], [500, 500]) is None
    assert population_stability([500, 0], [500, 500]) is not None


def test_edges_part_the_bins(answer: Any) -> None:
    monitor = Monitor(1)
    for edge in CONFIDENCE_EDGES:
        monitor.record(answer(score=edge - 1e-9))
        monitor.record(answer(score=edge + 1e-9))
    inner = (2,) * (len(CONFIDENCE_EDGES) - 1)
    assert monitor.state().confidence == ((1, *inner, 1),)


def test_what_waits_is_counted_when_somebody_asks(
    answer: Any, counted_policy: Callable[..., Policy]
) -> None:
    """After every single prediction the figures and the alarm are those of all of them."""
    stream = [answer(exit=2, reason="last_exit")] * 70
    monitor, alarm = Monitor(3, [counted_policy()]), DriftAlarm((600, 300, 100))
    for number, prediction in enumerate(stream):
        monitor.record(prediction)
        alarm.add(2)
        assert monitor.drifted == alarm.alarmed
        if number % 7 == 0:
            assert monitor.summary().predictions == number + 1
    unasked = Monitor(3, [counted_policy()])
    for prediction in stream:
        unasked.record(prediction)
    assert unasked.state() == monitor.state()
    assert unasked.state().drift[0].alarmed_at == alarm.alarmed_at


def test_other_networks_are_refused(answer: Any) -> None:
    monitor = Monitor(2)
    with pytest.raises(ValueError, match="left at exit 2, the monitor is for 2 exits"):
        monitor.record(answer(exit=2))
    assert monitor.summary().predictions == 0


def test_saved_and_taken_up_again(answer: Any, counted_policy: Callable[..., Policy]) -> None:
    stream = _stream(answer, 3210)
    whole = _watched(Monitor(3, [counted_policy()]), stream)
    first = _watched(Monitor(3, [counted_policy()]), stream[:1600])
    second = Monitor(3, [counted_policy()])
    second.restore(decode_state(encode_state(first.state())))
    _watched(second, stream[1600:])
    assert second.state() == whole.state()


def test_other_policies_start_anew(answer: Any, counted_policy: Callable[..., Policy]) -> None:
    old = _watched(Monitor(3, [counted_policy()]), _stream(answer, 500))
    new = Monitor(3, [counted_policy(exit_counts=(1, 2, 3)), counted_policy("second")])
    new.restore(old.state())
    assert new.summary().predictions == 500
    assert [sum(part.counts) for part in new.state().drift] == [0, 0]


def test_processes_add_up(answer: Any, counted_policy: Callable[..., Policy]) -> None:
    stream = _stream(answer, 2400)
    whole = _watched(Monitor(3, [counted_policy()], window=10_000), stream).state()
    parts = [
        _watched(Monitor(3, [counted_policy()], window=10_000), stream[start : start + 800]).state()
        for start in (0, 800, 1600)
    ]
    added = merge(parts)
    same = ("predictions", "confidence", "confidence_window", "shadow_runs", "shadow_disagreements")
    for name in same:
        assert getattr(added, name) == getattr(whole, name), name
    for mine, theirs in zip(added.stage_latency, whole.stage_latency, strict=True):
        assert mine.buckets == theirs.buckets
        assert mine.sum_ms == pytest.approx(theirs.sum_ms)
    assert added.drift[0].counts == whole.drift[0].counts
    going_on = Monitor(3, [counted_policy()])
    going_on.restore(added)
    assert going_on.summary().predictions == 2400
    assert merge(parts[:1]) == parts[0]


def test_an_alarm_in_one_process_is_an_alarm(
    answer: Any, counted_policy: Callable[..., Policy]
) -> None:
    calm, drifted, fresh = (Monitor(3, [counted_policy()]) for _ in range(3))
    for number in range(200):
        drifted.record(answer(exit=2))
        calm.record(answer(exit=(0, 0, 1, 0, 0, 1, 0, 1, 2, 0)[number % 10]))
    added = merge([calm.state(), drifted.state(), drifted.state()])
    assert added.drift[0].alarms == 2
    fresh.restore(added)
    assert fresh.drifted
    assert fresh.state().drift[0].alarms == 2


def test_states_that_do_not_add_up(answer: Any, counted_policy: Callable[..., Policy]) -> None:
    with pytest.raises(DataError, match="the states have 2, 3 exits, expected one network"):
        merge([Monitor(2).state(), Monitor(3).state()])
    with pytest.raises(DataError, match="no exits"):
        merge([])
    others = [Monitor(3, [counted_policy(exit_counts=(count, 1, 1))]).state() for count in (1, 2)]
    with pytest.raises(DataError, match="different exit counts"):
        merge(others)
    with pytest.raises(DataError, match="written for another bundle"):
        Monitor(2).restore(Monitor(3).state())
    with pytest.raises(DataError, match="reference has 3 exits"):
        Monitor(2).compare_with(Monitor(3).state())


def test_confidences_compared_with_an_earlier_state(answer: Any) -> None:
    reference = _watched(Monitor(3), _stream(answer, 2000)).state()
    monitor = Monitor(3, window=1000)
    monitor.compare_with(reference)
    _watched(monitor, _stream(answer, 1000, seed=9))
    value = monitor.summary().confidence_psi[0]
    assert value is not None
    assert value < 0.1


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"format_version": 2}',
        (b'"exits":3', b'"exits":4'),
        (b'"exits":3', b'"exits":-3'),
        (b'"shadow_runs":', b'"shadow_walks":'),
        (b'"exit":2', b'"exit":7'),
    ],
)
def test_what_is_no_state(answer: Any, counted_policy: Callable[..., Policy], change: Any) -> None:
    data = encode_state(_watched(Monitor(3, [counted_policy()]), _stream(answer, 100)).state())
    data = change if isinstance(change, bytes) else data.replace(*change)
    with pytest.raises(DataError, match=r"^there.json (is no state|contradicts)"):
        decode_state(data, "there.json")


def test_damaged_numbers_are_refused(answer: Any) -> None:
    state = _watched(Monitor(3), _stream(answer, 100)).state()
    data = encode_state(state).replace(b'"buckets":[[', b'"buckets":[[99999,1],[', 1)
    with pytest.raises(DataError, match="damaged: bucket 99999"):
        Monitor(3).restore(decode_state(data))


def test_shadow_runs_are_drawn_at_their_rate() -> None:
    monitor = Monitor(2, shadow_rate=0.02, seed=1)
    wanted = sum(monitor.wants_shadow() for _ in range(50_000))
    # Five standard deviations either way.
    assert abs(wanted - 1000) < 157
    assert not any(Monitor(2, shadow_rate=0.0).wants_shadow() for _ in range(100))
    assert all(Monitor(2, shadow_rate=1.0).wants_shadow() for _ in range(100))


def test_eight_threads_lose_nothing(answer: Any, counted_policy: Callable[..., Policy]) -> None:
    monitor = Monitor(3, [counted_policy()], window=777)
    stream = _stream(answer, 2000)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=_watched, args=(monitor, stream)) for _ in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            state: MonitorState = monitor.state()
            counted = sum(part.count for part in state.predictions)
            assert counted == sum(map(sum, state.confidence)), "never half of a prediction"
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert monitor.summary().predictions == 16_000
    one = _watched(Monitor(3), stream).state()
    for mine, theirs in zip(monitor.state().stage_latency, one.stage_latency, strict=True):
        assert mine.buckets == tuple((place, 8 * count) for place, count in theirs.buckets)


def test_memory_is_constant(answer: Any, counted_policy: Callable[..., Policy]) -> None:
    monitor = _watched(Monitor(3, [counted_policy()]), _stream(answer, 5000))
    early = len(encode_state(monitor.state()))
    _watched(monitor, _stream(answer, 20_000, seed=5))
    assert len(encode_state(monitor.state())) < 1.5 * early


def test_monitors_that_make_no_sense(counted_policy: Callable[..., Policy]) -> None:
    for options in ({"shadow_rate": 1.5}, {"window": 0}, {"exits": 0}):
        with pytest.raises(ValueError, match="expected at least one exit"):
            Monitor(**{"exits": 2, **options})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counts 3 exits, expected 2"):
        Monitor(2, [counted_policy()])
