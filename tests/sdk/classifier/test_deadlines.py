"""Deadlines: what they are judged by, and which are refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from offramp import DynamicClassifier
from offramp.bundle import LatencyEntry
from offramp.classifier import StageLimits
from offramp.errors import DeadlineError
from offramp.profiling import device_record, measure_predictions
from offramp.testing import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp import Bundle

LOGITS = np.zeros((3, 1, 3))


def _limits(*ms: float) -> StageLimits:
    return StageLimits(ms, 0.95, 299, "profile")


@pytest.mark.parametrize(
    ("deadline_ms", "limits_ms", "exit"),
    [
        (50.0, (1.0, 1.0, 1.0), 2),
        (50.0, (1.0, 60.0, 1.0), 0),
        (50.0, (1.0, 1.0, 60.0), 1),
        (math.inf, (1.0, 1e9, 1e9), 2),
    ],
)
def test_no_stage_starts_that_may_be_late(
    make_classifier: Callable[..., DynamicClassifier],
    deadline_ms: float,
    limits_ms: tuple[float, ...],
    exit: int,
) -> None:
    fake = FakeRuntime(LOGITS)
    classifier = make_classifier(fake, limits=_limits(*limits_ms))
    answer = classifier.predict(fake.image(0), deadline_ms=deadline_ms)
    assert answer.exit == exit
    assert answer.reason == ("last_exit" if exit == 2 else "deadline")
    assert fake.stages_run == list(range(exit + 1))


def test_the_deadline_given_at_load_holds_for_every_prediction_that_says_no_other(
    make_classifier: Callable[..., DynamicClassifier],
) -> None:
    fake = FakeRuntime(LOGITS)
    classifier = make_classifier(fake, limits=_limits(1.0, 1.0, 60.0), deadline_ms=50.0)
    assert classifier.predict(fake.image(0)).exit == 1
    assert classifier.predict(fake.image(0), deadline_ms=500.0).exit == 2
    assert classifier.predict(fake.image(0), deadline_ms=math.inf).exit == 2
    assert [answer.exit for answer in classifier.predict_many([fake.image(0)] * 3)] == [1] * 3


def test_an_unreachable_deadline_is_refused_with_the_smallest_there_is(
    make_classifier: Callable[..., DynamicClassifier],
) -> None:
    fake = FakeRuntime(LOGITS)
    with pytest.raises(DeadlineError, match=r"deadline_ms is 2, .* up to 2.5 ms in the bundle's"):
        make_classifier(fake, limits=_limits(2.5, 1.0, 1.0), deadline_ms=2.0)
    with pytest.raises(DeadlineError) as refused:
        make_classifier(FakeRuntime(LOGITS, stage_ms=(3, 0, 0)), deadline_ms=1.0)
    assert refused.value.smallest_ms >= 3
    make_classifier(fake, limits=_limits(2.5, 1.0, 1.0), deadline_ms=2.5)
    with pytest.raises(ValueError, match="deadline_ms is 0, expected a time above 0"):
        make_classifier(fake, deadline_ms=0)


def test_real_programs_are_timed_when_there_is_no_profile(calibrated: Bundle) -> None:
    with DynamicClassifier.load(calibrated, policy="last") as classifier:
        quick = classifier.stage_limits
    with DynamicClassifier.load(calibrated, policy="last", deadline_ms=1e4) as classifier:
        careful = classifier.stage_limits
        assert classifier.predict(calibrated.vectors().images[0]).reason == "last_exit"
    assert (quick.source, careful.source) == ("load", "load")
    assert quick.runs <= 10
    assert careful.runs == 299
    assert careful.confidence == pytest.approx(0.95, abs=0.001)
    with pytest.raises(DeadlineError, match="here"):
        DynamicClassifier.load(calibrated, policy="last", deadline_ms=1e-6)


def test_a_profile_of_this_device_decides(calibrated: Bundle) -> None:
    bundle = calibrated.add_latency(
        LatencyEntry(
            program="litert/int8",
            device=device_record(),
            threads=1,
            stage_samples_ms=((7.0,) * 300, (8.0,) * 300, (1.0,) * 300),
            warmup_runs=1,
            measured_at="2026-11-24T00:00:00+00:00",
        )
    )
    with pytest.raises(DeadlineError) as refused:
        DynamicClassifier.load(bundle, deadline_ms=6.9)
    assert refused.value.smallest_ms == 7.0
    image = bundle.vectors().images[0]
    with DynamicClassifier.load(bundle, policy="last", deadline_ms=7.5) as classifier:
        answer = classifier.predict(image)
        assert (answer.exit, answer.reason) == (0, "deadline")
        measured = measure_predictions(classifier, [image], rounds=20, deadline_ms=1_000)
        assert measured.exits.tolist() == [2] * 20
