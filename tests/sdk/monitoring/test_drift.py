"""The drift alarm: seldom without a cause, soon with one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.monitoring import DriftAlarm, log_bayes_factor

COUNTS = st.lists(st.integers(0, 50), min_size=3, max_size=3)


def _feed(alarm: DriftAlarm, exits: list[int]) -> DriftAlarm:
    for exit in exits:
        alarm.add(exit)
    return alarm


def test_the_factor_of_one_observation() -> None:
    """Worked out by hand: half against (1/2 + 3) / (1 + 4)."""
    assert log_bayes_factor([1, 0], [3, 1]) == pytest.approx(math.log(0.5 / (3.5 / 5)))
    assert log_bayes_factor([0, 0], [3, 1]) == 0.0


@given(COUNTS, COUNTS)
def test_the_factor_is_a_martingale(counts: list[int], reference: list[int]) -> None:
    """Its mean after the next observation, under one distribution, is what it is now."""
    both = [n + m + 0.5 for n, m in zip(counts, reference, strict=True)]
    now = math.exp(log_bayes_factor(counts, reference))
    mean = 0.0
    for exit in range(3):
        after = list(counts)
        after[exit] += 1
        mean += both[exit] / sum(both) * math.exp(log_bayes_factor(after, reference))
    assert mean == pytest.approx(now, rel=1e-9)


@given(COUNTS, COUNTS)
def test_the_factor_does_not_mind_the_order_of_the_samples(a: list[int], b: list[int]) -> None:
    assert log_bayes_factor(a, b) == pytest.approx(log_bayes_factor(b, a), abs=1e-9)


@pytest.mark.parametrize("calibrated", [300, 5000])
def test_false_alarms(calibrated: int) -> None:
    """At 5 %, over 20,000 predictions; the bound is for the average over the prior.

    With a true rate of 5 % more than 10 alarms in 100 streams have a chance of 1.1 %.
    """
    rng = np.random.default_rng(calibrated)
    alarms = 0
    for _ in range(100):
        shares = rng.dirichlet(np.full(4, 0.5))
        reference = rng.multinomial(calibrated, shares).tolist()
        exits = rng.choice(4, 20_000, p=shares).tolist()
        alarms += _feed(DriftAlarm(reference, alpha=0.05), exits).alarmed
    assert alarms <= 10


def test_an_exact_reference_would_raise_false_alarms() -> None:
    """Why the calibration's own noise must be in the test."""
    rng = np.random.default_rng(2)
    shares = np.array([0.5, 0.3, 0.2])
    alarms = 0
    for _ in range(40):
        reference = rng.multinomial(300, shares)
        exits = rng.choice(3, 20_000, p=shares).tolist()
        # A thousandfold reference of the same shares: as if they were known exactly.
        alarms += _feed(DriftAlarm((1000 * reference).tolist(), alpha=0.01), exits).alarmed
    assert alarms >= 10


@pytest.mark.parametrize(("calm", "largest_median"), [(0, 600), (10_123, 1000)])
def test_a_shift_of_ten_points_is_seen(calm: int, largest_median: int) -> None:
    """From the first to the last exit, at once or after a long calm."""
    rng = np.random.default_rng(3)
    before, after = [0.45, 0.25, 0.15, 0.15], [0.35, 0.25, 0.15, 0.25]
    delays = []
    for _ in range(15):
        alarm = DriftAlarm(rng.multinomial(5000, before).tolist())
        _feed(alarm, rng.choice(4, calm, p=before).tolist())
        assert not alarm.alarmed
        for exit in rng.choice(4, 8000, p=after).tolist():
            alarm.add(exit)
            if alarm.alarmed:
                break
        delays.append(alarm.total - calm)
    assert np.median(delays) <= largest_median


def test_the_alarm_stays_and_says_when() -> None:
    alarm = _feed(DriftAlarm([1000, 10]), [1] * 64)
    assert alarm.alarmed
    assert alarm.alarmed_at is not None
    first = alarm.alarmed_at
    assert first <= 64
    assert _feed(alarm, [0] * 5000).alarmed_at == first


def test_evidence_reaches_zero_with_the_alarm() -> None:
    alarm = DriftAlarm([1000, 10])
    assert alarm.evidence < 0
    earlier = alarm.evidence
    while alarm.evidence < 0:
        assert not alarm.alarmed
        alarm.add(1)
        assert alarm.evidence > earlier
        earlier = alarm.evidence
    # It is looked at every sixteenth prediction.
    while alarm.total % 16:
        alarm.add(1)
    assert alarm.alarmed_at == alarm.total


def test_going_on_elsewhere_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    exits = rng.choice(3, 3000, p=[0.6, 0.3, 0.1]).tolist()
    whole = _feed(DriftAlarm([60, 30, 10]), exits)
    first = _feed(DriftAlarm([60, 30, 10]), exits[:1111])
    second = DriftAlarm([60, 30, 10])
    second.restore(first.counts, first.windows, first.alarmed_at)
    _feed(second, exits[1111:])
    assert (second.counts, second.windows) == (whole.counts, whole.windows)
    assert second.alarmed_at == whole.alarmed_at
    assert second.total == 3000


def test_shares_of_alpha_add_up_to_less_than_one() -> None:
    lengths = sum(1 / (j * (j + 1)) for j in range(1, 25))
    numbers = sum(1 / (i * (i + 1)) for i in range(1, 100_000))
    assert lengths < 1
    assert numbers < 1


def test_what_cannot_be_watched() -> None:
    for reference, alpha in (([], 0.1), ([1, -1], 0.1), ([1], 0.0), ([1], 1.0)):
        with pytest.raises(ValueError, match="expected counts of at least one exit"):
            DriftAlarm(reference, alpha)
    with pytest.raises(ValueError, match="2 counts for 3 reference counts"):
        log_bayes_factor([1, 2], [1, 2, 3])
    alarm = DriftAlarm([1, 2])
    other = DriftAlarm([1, 2, 3])
    with pytest.raises(ValueError, match="do not fit its 2 exits"):
        alarm.restore(other.counts, other.windows, None)
