"""A stream: the newest frame counts, nothing blocks, nothing is lost from sight."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp import DynamicClassifier
from offramp.classifier import LiveClassifier, LiveCounts
from offramp.errors import ClosedError, ImageError
from offramp.testing import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp import Bundle, Prediction
    from offramp.images import ImageLike

LOGITS = np.eye(3)[None] * 9


class _Gate:
    """A callback that holds the stream until it is opened, and notes what it was given."""

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.seen: list[tuple[str, int, str]] = []

    def __call__(self, prediction: Prediction, _: ImageLike, timestamp_ms: int) -> None:
        self.seen.append((prediction.label, timestamp_ms, prediction.reason))
        self.arrived.release()
        assert self.go.acquire(timeout=20)


def _until(condition: Callable[[], bool]) -> None:
    stop = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.002)


@pytest.fixture
def fake() -> FakeRuntime:
    return FakeRuntime(LOGITS)


@pytest.fixture
def classifier(
    fake: FakeRuntime, make_classifier: Callable[..., DynamicClassifier]
) -> DynamicClassifier:
    return make_classifier(fake)


def test_the_newest_waiting_frame_wins(fake: FakeRuntime, classifier: DynamicClassifier) -> None:
    gate = _Gate()
    live = LiveClassifier(classifier, gate)
    live.submit(fake.image(0), 10)
    assert gate.arrived.acquire(timeout=20)
    for row, timestamp_ms in ((1, 20), (2, 30), (0, 40), (1, 50)):
        began = time.perf_counter()
        live.submit(fake.image(row), timestamp_ms)
        assert time.perf_counter() - began < 5, "submit waits for nobody"
    gate.go.release()
    assert gate.arrived.acquire(timeout=20)
    gate.go.release()
    _until(lambda: live.counts.answered == 2)
    assert gate.seen == [("ant", 10, "last_exit"), ("bee", 50, "last_exit")]
    assert live.counts == LiveCounts(submitted=5, answered=2, dropped=3)
    answer = live.latest()
    assert answer is not None
    assert (answer[0].label, answer[1]) == ("bee", 50)
    live.close()


def test_every_frame_is_answered_if_there_is_time(
    fake: FakeRuntime, classifier: DynamicClassifier
) -> None:
    with LiveClassifier(classifier, max_results=1) as live:
        assert live.latest() is None
        for number in range(20):
            live.submit(fake.image(number % 3), number)
            _until(lambda: live.counts.answered == number + 1)  # noqa: B023 - it is called at once
            answer = live.latest()
            assert answer is not None
            assert (answer[0].index, answer[1]) == (number % 3, number)
            assert len(answer[0].categories) == 1
    assert live.counts == LiveCounts(submitted=20, answered=20)


@pytest.mark.parametrize("late", [5, 4, -1])
def test_timestamps_rise(fake: FakeRuntime, classifier: DynamicClassifier, late: int) -> None:
    with LiveClassifier(classifier) as live:
        live.submit(fake.image(0), 5)
        with pytest.raises(ValueError, match=f"timestamp_ms is {late}, expected more than .* 5"):
            live.submit(fake.image(0), late)
        live.submit(fake.image(0), 6)


def test_close_finishes_the_frame_in_work_and_drops_the_other(
    fake: FakeRuntime, classifier: DynamicClassifier
) -> None:
    gate = _Gate()
    live = LiveClassifier(classifier, gate)
    live.submit(fake.image(0), 1)
    assert gate.arrived.acquire(timeout=20)
    live.submit(fake.image(1), 2)
    closer = threading.Thread(target=live.close)
    closer.start()
    closer.join(0.05)
    assert closer.is_alive()
    gate.go.release()
    closer.join(20)
    live.close()
    assert live.counts == LiveCounts(submitted=2, answered=1, dropped=1)
    for use in (lambda: live.submit(fake.image(0), 3), live.latest):
        with pytest.raises(ClosedError, match="make a new LiveClassifier"):
            use()
    assert classifier.predict(fake.image(0)).index == 0, "the classifier is not the stream's"


def test_a_callback_may_close_the_stream(fake: FakeRuntime, classifier: DynamicClassifier) -> None:
    done = threading.Event()

    def stop(*_: Any) -> None:
        live.close()
        done.set()

    live = LiveClassifier(classifier, stop)
    live.submit(fake.image(0), 1)
    assert done.wait(20)
    live.close()
    assert live.counts.answered == 1


def _fail(*_: Any) -> None:
    raise KeyError("the user's own mistake")


def test_what_a_callback_raises_comes_out_at_the_next_call(
    fake: FakeRuntime, classifier: DynamicClassifier
) -> None:
    for use in ("submit", "latest", "close"):
        live = LiveClassifier(classifier, _fail)
        live.submit(fake.image(0), 1)
        _until(lambda: live.counts.failed == 1)  # noqa: B023 - it is called at once
        live._thread.join(20)
        with pytest.raises(KeyError, match="own mistake"):
            live.submit(fake.image(0), 2) if use == "submit" else getattr(live, use)()
        live.close()
        with pytest.raises(ClosedError):
            live.latest()


@pytest.mark.parametrize(("own", "expected"), [(None, KeyError), (OSError(), OSError)])
def test_what_a_callback_raises_comes_out_at_the_end_of_the_block_unless_that_raises(
    fake: FakeRuntime,
    classifier: DynamicClassifier,
    own: Exception | None,
    expected: type[Exception],
) -> None:
    def block() -> None:
        with LiveClassifier(classifier, _fail) as live:
            live.submit(fake.image(0), 1)
            _until(lambda: live.counts.failed == 1)
            if own is not None:
                raise own

    with pytest.raises(expected):
        block()


def test_with_a_listener_for_errors_the_stream_goes_on(
    fake: FakeRuntime, classifier: DynamicClassifier
) -> None:
    errors: list[tuple[Exception, int]] = []
    with LiveClassifier(
        classifier, on_error=lambda error, timestamp_ms: errors.append((error, timestamp_ms))
    ) as live:
        live.submit(np.zeros((0, 1, 3), np.uint8), 7)
        _until(lambda: live.counts.failed == 1)
        live.submit(fake.image(1), 8)
        _until(lambda: live.counts.answered == 1)
    ((error, timestamp_ms),) = errors
    assert isinstance(error, ImageError)
    assert timestamp_ms == 7
    assert live.counts == LiveCounts(submitted=2, answered=1, failed=1)
    live = LiveClassifier(classifier, _fail, on_error=_fail)
    live.submit(fake.image(0), 1)
    _until(lambda: not live._thread.is_alive())
    with pytest.raises(KeyError, match="own mistake"):
        live.close()


def test_options_are_checked_before_the_first_frame(classifier: DynamicClassifier) -> None:
    with pytest.raises(ValueError, match="'bees', which is no label"):
        LiveClassifier(classifier, category_allowlist=["bees"])
    with pytest.raises(ValueError, match="reuse_below is 0, expected a number above 0"):
        LiveClassifier(classifier, reuse_below=0)
    with pytest.raises(ValueError, match="reuse_for_ms is -1"):
        LiveClassifier(classifier, reuse_for_ms=-1)


class TestReuse:
    """On a real program."""

    def _run(self, bundle: Bundle, frames: list[Any], **options: Any) -> list[Prediction]:
        answers: list[Prediction] = []
        with (
            DynamicClassifier.load(bundle, policy="last") as classifier,
            LiveClassifier(
                classifier, lambda answer, *_: answers.append(answer), **options
            ) as live,
        ):
            for number, (frame, timestamp_ms) in enumerate(frames):
                live.submit(frame, timestamp_ms)
                _until(lambda: len(answers) == number + 1)  # noqa: B023 - it is called at once
            _until(lambda: live.counts.answered == len(frames))
            reused = [answer.reason == "reused" for answer in answers]
            assert live.counts.reused == sum(reused)
        return answers

    def test_a_still_scene_is_answered_again(self, calibrated: Bundle) -> None:
        scene = np.full((24, 24, 3), 100, np.uint8)
        noisy = scene + 1
        moved = scene.copy()
        moved[4:8, 4:8] = 130  # one thirty-sixth of the picture
        frames = [(scene, 0), (noisy, 10), (scene, 20), (moved, 30), (moved, 40), (scene, 50)]
        answers = self._run(calibrated, frames, reuse_below=3.0)
        assert [answer.reason for answer in answers] == [
            "last_exit",
            "reused",
            "reused",
            "last_exit",
            "reused",
            "last_exit",
        ]
        first, again = answers[:2]
        assert (again.label, again.index, again.score, again.exit, again.policy) == (
            first.label,
            first.index,
            first.score,
            first.exit,
            "last",
        )
        assert again.stage_ms == ()
        assert again.total_ms > 0

    def test_small_steps_add_up(self, calibrated: Bundle) -> None:
        """Each frame is compared with the one that was classified, not with the one before."""
        frames = [(np.full((12, 12, 3), 100 + number, np.uint8), number) for number in range(9)]
        answers = self._run(calibrated, frames, reuse_below=3.5)
        assert [answer.reason == "reused" for answer in answers] == [
            number % 4 != 0 for number in range(9)
        ]

    def test_not_for_ever(self, calibrated: Bundle) -> None:
        scene = np.full((12, 12, 3), 100, np.uint8)
        frames = [(scene, 100 * number) for number in range(7)]
        answers = self._run(calibrated, frames, reuse_below=1.0, reuse_for_ms=300)
        assert [answer.reason == "reused" for answer in answers] == [
            number % 3 != 0 for number in range(7)
        ]

    def test_the_region_is_what_is_looked_at(self, calibrated: Bundle) -> None:
        generator = np.random.default_rng(0)
        scene = generator.integers(0, 256, (24, 24, 3), np.uint8)
        outside = scene.copy()
        outside[:12] = 0
        options: dict[str, Any] = {
            "region_of_interest": (0.0, 0.5, 1.0, 1.0),
            "rotation_degrees": 180,
        }
        answers = self._run(calibrated, [(scene, 0), (outside, 1)], reuse_below=1.0, **options)
        assert [answer.reason for answer in answers] == ["last_exit", "reused"]
        with DynamicClassifier.load(calibrated, policy="last") as classifier:
            np.testing.assert_array_equal(
                answers[0].probabilities, classifier.predict(scene, **options).probabilities
            )
