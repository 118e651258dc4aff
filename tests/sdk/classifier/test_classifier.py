"""What predict answers, where it stops, and what it refuses; on scripted logits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from offramp import Category, DynamicClassifier, Policy
from offramp.bundle import InputSpec
from offramp.classifier import StageLimits
from offramp.errors import BundleError, ClosedError, ImageError, ProgramError
from offramp.policy import choose_exits, make_decider, probabilities, signal_values
from offramp.testing import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

LABELS = ("ant", "bee", "cat")
# Row 0 is sure at once, row 1 at the second exit, row 2 never.
LOGITS = np.array(
    [
        [[9.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.1, 0.0]],
        [[0.0, 9.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.1]],
        [[0.0, 0.0, 9.0], [0.0, 0.0, 9.0], [0.3, 0.2, 0.1]],
    ],
    dtype=np.float32,
)


def _policy(**changes: Any) -> Policy:
    values: dict[str, Any] = {
        "name": "default",
        "program": "litert/float32",
        "signal": "max_probability",
        "temperatures": (1.0, 1.0, 1.0),
        "thresholds": (0.9, 0.9, 0.0),
        "enabled": (True, True, True),
    }
    return Policy(**{**values, **changes})


def _classifier(
    fake: FakeRuntime, policy: Policy | None, limits_ms: Sequence[float] = ()
) -> DynamicClassifier:
    return DynamicClassifier(
        fake,
        labels=LABELS,
        input_spec=InputSpec(height=8, width=8),
        policy=policy,
        limits=StageLimits(tuple(limits_ms), 0.95, 300, "profile") if limits_ms else None,
    )


@pytest.fixture
def fake() -> FakeRuntime:
    return FakeRuntime(LOGITS)


def test_each_image_leaves_where_it_is_sure(fake: FakeRuntime) -> None:
    classifier = _classifier(fake, _policy())
    fake.stages_run.clear()
    first, second, third = (classifier.predict(fake.image(row)) for row in range(3))

    assert (first.exit, first.label, first.reason) == (0, "ant", "confident")
    assert (second.exit, second.label, second.reason) == (1, "bee", "confident")
    assert (third.exit, third.label, third.reason) == (2, "ant", "last_exit")
    assert fake.stages_run == [0, 0, 1, 0, 1, 2], "an exit that answers ends the work"
    assert [len(answer.stage_ms) for answer in (first, second, third)] == [1, 2, 3]
    assert first.score == probabilities(LOGITS[0, 0])[0]
    for answer in (first, second, third):
        assert answer.total_ms >= sum(answer.stage_ms) > 0


def test_last_runs_everything(fake: FakeRuntime) -> None:
    classifier = _classifier(fake, None)
    answers = [classifier.predict(fake.image(row)) for row in range(3)]
    assert [answer.exit for answer in answers] == [2, 2, 2]
    assert [answer.label for answer in answers] == ["cat", "cat", "ant"]
    assert {answer.reason for answer in answers} == {"last_exit"}
    assert classifier.policy is None


def test_a_disabled_exit_never_answers(fake: FakeRuntime) -> None:
    classifier = _classifier(fake, _policy(enabled=(False, True, True), thresholds=(0.0, 0.9, 0.0)))
    assert classifier.predict(fake.image(0)).exit == 1


def test_scores_use_the_temperature_of_the_exit_that_answers(fake: FakeRuntime) -> None:
    classifier = _classifier(fake, _policy(temperatures=(2.0, 1.0, 1.0)))
    assert classifier.predict(fake.image(0)).score == probabilities(LOGITS[0, 0], 2.0)[0]


def test_categories(fake: FakeRuntime) -> None:
    classifier = _classifier(fake, None)
    answer = classifier.predict(fake.image(2))
    assert [category.label for category in answer.categories] == ["ant", "bee", "cat"]
    assert answer.categories[0] == Category(answer.index, answer.score, answer.label)
    assert sum(category.score for category in answer.categories) == pytest.approx(1)
    assert classifier.predict(fake.image(2), max_results=1).categories == answer.categories[:1]
    threshold = answer.categories[1].score
    limited = classifier.predict(fake.image(2), score_threshold=threshold)
    assert limited.categories == answer.categories[:2]
    assert classifier.predict(fake.image(2), score_threshold=1.1).categories == ()
    assert len(classifier.predict(fake.image(2), max_results=99).categories) == 3


def test_ties_go_to_the_first_label() -> None:
    fake = FakeRuntime(np.zeros((1, 1, 3)))
    answer = _classifier(fake, None).predict(fake.image(0))
    assert (answer.index, answer.label) == (0, "ant")
    assert [category.index for category in answer.categories] == [0, 1, 2]


def test_predictions_are_values(fake: FakeRuntime) -> None:
    answer = _classifier(fake, None).predict(fake.image(0))
    with pytest.raises(AttributeError):
        answer.label = "x"  # type: ignore[misc]
    assert answer == answer
    assert "probabilities" not in repr(answer)


def test_a_signal_that_is_the_threshold_answers_and_the_next_float_does_not() -> None:
    """Within rounding of the threshold the array rule decides, on both sides of it."""
    generator = np.random.default_rng(1)
    for _ in range(200):
        logits = (generator.standard_normal((2, 1, 10)) * 5).astype(np.float32)
        sure = float(signal_values(probabilities(logits[0, 0], 1.3), "max_probability"))
        for threshold, exit in ((sure, 0), (float(np.nextafter(sure, 2)), 1)):
            policy = _policy(
                temperatures=(1.3, 1.0), thresholds=(min(threshold, 1.0), 0.0), enabled=(True, True)
            )
            if threshold <= 1.0:
                assert choose_exits(policy, logits).tolist() == [exit]
                decider = make_decider(policy, 0, 10)
                assert decider is not None
                for form in (logits[0, 0], logits[0, 0].tolist()):
                    assert decider.decide(form) == (exit == 0)


@given(data=st.data())
def test_predict_stops_where_choose_exits_says(data: st.DataObject) -> None:
    """The per-image path and the array rule agree for every policy, ties and all."""
    exits = data.draw(st.integers(1, 4))
    classes = data.draw(st.integers(2, 6))
    numbers = st.floats(-30, 30, width=32) | st.sampled_from([0.0, 1.0, 700.0])
    logits: NDArray[np.float32] = data.draw(
        hnp.arrays(np.float32, (exits, 3, classes), elements=numbers)
    )
    temperatures = data.draw(
        st.lists(st.sampled_from([1.0, 0.5, 1.7]), min_size=exits, max_size=exits)
    )
    signal = data.draw(st.sampled_from(["max_probability", "margin", "entropy"]))
    # Thresholds that some image meets to the last bit are where two paths would part.
    met = [
        signal_values(probabilities(logits[exit], temperatures[exit]), signal).tolist()
        for exit in range(exits)
    ]
    thresholds = [
        data.draw(
            st.sampled_from([min(max(value, 0.0), 1.0) for value in values]) | st.floats(0, 1)
        )
        for values in met
    ]
    enabled = [*(data.draw(st.booleans()) for _ in range(exits - 1)), True]
    policy = _policy(
        signal=signal,
        temperatures=tuple(temperatures),
        thresholds=tuple(thresholds),
        enabled=tuple(enabled),
    )
    fake = FakeRuntime(logits)
    classifier = DynamicClassifier(
        fake,
        labels=[str(number) for number in range(classes)],
        input_spec=InputSpec(height=8, width=8),
        policy=policy,
    )
    answers = [classifier.predict(fake.image(row)) for row in range(3)]
    expected = choose_exits(policy, logits)
    assert [answer.exit for answer in answers] == expected.tolist()
    for row, answer in enumerate(answers):
        assert answer.index == logits[answer.exit, row].argmax()


def _timed(stage_ms: Sequence[float]) -> FakeRuntime:
    return FakeRuntime(LOGITS, stage_ms=stage_ms)


@pytest.mark.parametrize(
    ("deadline_ms", "exit", "reason"),
    [(0.001, 0, "deadline"), (60, 1, "deadline"), (5_000, 2, "last_exit")],
)
def test_deadline(deadline_ms: float, exit: int, reason: str) -> None:
    fake = _timed([1, 1, 400])
    answer = _classifier(fake, _policy()).predict(fake.image(2), deadline_ms=deadline_ms)
    assert (answer.exit, answer.reason) == (exit, reason)
    expected = probabilities(LOGITS[exit, 2])
    assert answer.score == expected.max()
    np.testing.assert_array_equal(answer.probabilities, expected)


def test_a_deadline_does_not_hold_back_a_sure_exit() -> None:
    fake = _timed([1, 1, 1])
    answer = _classifier(fake, _policy()).predict(fake.image(0), deadline_ms=0.001)
    assert (answer.exit, answer.reason) == (0, "confident")


def test_limits_decide_and_not_what_was_seen() -> None:
    fake = FakeRuntime(LOGITS)
    classifier = _classifier(fake, None, limits_ms=(0.0, 0.0, 1e6))
    image = fake.image(2)
    for _ in range(5):
        assert classifier.predict(image).reason == "last_exit"
        assert classifier.predict(image, deadline_ms=5_000).reason == "deadline"


def test_without_a_profile_the_stages_are_timed_at_load() -> None:
    limits = _classifier(_timed([1, 2, 4]), None).stage_limits
    assert limits.source == "load"
    assert 1 <= limits.runs <= 10
    assert limits.confidence == pytest.approx(1 - 0.99**limits.runs)
    assert [least <= got for least, got in zip([1, 2, 4], limits.ms, strict=True)] == [True] * 3


def test_waiting_counts_towards_the_deadline() -> None:
    fake = _timed([1, 150, 1])
    classifier = _classifier(fake, None)
    answers = []

    def work() -> None:
        answers.append(classifier.predict(fake.image(2), deadline_ms=230))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "deadline" in {answer.reason for answer in answers}


def test_many_threads_share_one_classifier() -> None:
    logits = np.eye(3)[None].repeat(2, axis=0) * 9
    fake = FakeRuntime(logits, stage_ms=(0.2, 0.2))
    classifier = _classifier(fake, None)
    wrong: list[int] = []

    def work(row: int) -> None:
        for _ in range(30):
            if classifier.predict(fake.image(row)).index != row:
                wrong.append(row)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_close(fake: FakeRuntime) -> None:
    with _classifier(fake, None) as classifier:
        assert not fake.closed
    assert fake.closed
    classifier.close()
    with pytest.raises(ClosedError, match="load the bundle again"):
        classifier.predict(fake.image(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline_ms": 0}, "deadline_ms is 0"),
        ({"deadline_ms": -1}, "deadline_ms is -1"),
        ({"deadline_ms": float("nan")}, "deadline_ms is nan"),
        ({"max_results": 0}, "max_results is 0"),
        ({"score_threshold": float("nan")}, "score_threshold is nan"),
    ],
)
def test_bad_options(fake: FakeRuntime, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _classifier(fake, None).predict(fake.image(0), **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite(value: float) -> None:
    logits: ArrayLike = np.full((2, 1, 3), value)
    fake = FakeRuntime(logits)
    with pytest.raises(ProgramError, match="not finite"), np.errstate(invalid="ignore"):
        _classifier(fake, _policy(**_two_exits())).predict(fake.image(0))


def _two_exits() -> dict[str, Any]:
    return {"temperatures": (1.0, 1.0), "thresholds": (0.5, 0.0), "enabled": (True, True)}


def test_what_does_not_fit_the_program(fake: FakeRuntime) -> None:
    with pytest.raises(BundleError, match="policy is for 2 stages, the program has 3"):
        _classifier(fake, _policy(**_two_exits()))
    with pytest.raises(BundleError, match="limit is for 1 stages"):
        _classifier(fake, None, limits_ms=(1.0,))
    with pytest.raises(ImageError, match="got int"):
        _classifier(fake, None).predict(3)  # type: ignore[arg-type]
