"""predict_many: order, errors, laziness, bounds, and threads that do not disturb each other."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from offramp import DynamicClassifier
from offramp.errors import ClosedError, ImageError, ImageFailedError
from offramp.testing import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from offramp import Bundle

# Image n is answered with class n % 3; the first three take ever less time at stage 1.
LOGITS = np.eye(3)[None].repeat(2, axis=0) * 9


def _fakes(count: int, stage_ms: tuple[float, ...] = ()) -> list[FakeRuntime]:
    return [FakeRuntime(LOGITS, stage_ms=stage_ms) for _ in range(count)]


def _threads() -> int:
    return sum(thread.name.startswith("offramp-") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_come_in_the_order_of_the_images(
    make_classifier: Callable[..., DynamicClassifier], workers: int
) -> None:
    fakes = _fakes(3, (0.2, 0.1))
    classifier = make_classifier(*fakes)
    images = [fakes[0].image(number % 3) for number in range(60)]
    answers = list(classifier.predict_many(images, workers=workers))
    assert [answer.index for answer in answers] == [number % 3 for number in range(60)]
    assert _threads() == 0


def test_all_workers_work_at_the_same_time(
    make_classifier: Callable[..., DynamicClassifier],
) -> None:
    fakes = _fakes(4, (20, 20))
    classifier = make_classifier(*fakes)
    assert classifier.workers == 4
    began = time.perf_counter()
    assert len(list(classifier.predict_many([fakes[0].image(0)] * 12))) == 12
    # One after the other takes 480 ms; four at a time 120.
    assert time.perf_counter() - began < 0.4


def test_the_images_are_taken_as_they_are_needed(
    make_classifier: Callable[..., DynamicClassifier],
) -> None:
    fakes = _fakes(2)
    taken: list[int] = []

    def images() -> Iterator[NDArray[np.uint8]]:
        for number in range(1_000_000):
            taken.append(number)
            yield fakes[0].image(number % 3)

    answers = make_classifier(*fakes).predict_many(images())
    assert taken == []
    for number in range(20):
        assert next(answers).index == number % 3
        assert len(taken) <= number + 1 + 4
    answers.close()  # type: ignore[attr-defined]  # it is a generator
    assert _threads() == 0


def test_an_error_says_which_image_after_all_before_it_were_answered(
    make_classifier: Callable[..., DynamicClassifier],
) -> None:
    fakes = _fakes(3, (1, 1))
    good, bad = fakes[0].image(1), np.zeros((0, 3, 3), np.uint8)
    answers = make_classifier(*fakes).predict_many([good, good, good, good, bad, good])
    assert [next(answers).index for _ in range(4)] == [1] * 4
    with pytest.raises(ImageFailedError, match=r"image 4: the image array has") as failed:
        next(answers)
    assert failed.value.index == 4
    assert isinstance(failed.value.__cause__, ImageError)
    assert _threads() == 0


def test_a_source_that_fails_is_heard_after_its_images_were_answered(
    make_classifier: Callable[..., DynamicClassifier],
) -> None:
    fakes = _fakes(2)

    def images() -> Iterator[NDArray[np.uint8]]:
        yield fakes[0].image(0)
        yield fakes[0].image(1)
        raise OSError("the camera is gone")

    answers = make_classifier(*fakes).predict_many(images())
    assert [next(answers).index, next(answers).index] == [0, 1]
    with pytest.raises(OSError, match="camera"):
        next(answers)
    assert _threads() == 0


def test_no_images_and_wrong_numbers_of_workers(
    make_classifier: Callable[..., DynamicClassifier], calibrated: Bundle
) -> None:
    classifier = make_classifier(*_fakes(2))
    assert list(classifier.predict_many([])) == []
    with pytest.raises(ValueError, match="workers is 3, expected 1 to 2; load the bundle with"):
        classifier.predict_many([], workers=3)
    with pytest.raises(ValueError, match="workers is 0, expected at least 1"):
        classifier.predict_many([], workers=0)
    with pytest.raises(ValueError, match="workers is 0, expected at least 1"):
        DynamicClassifier.load(calibrated, workers=0)


def test_closing_waits_for_what_has_begun_and_refuses_the_rest(
    make_classifier: Callable[..., DynamicClassifier],
) -> None:
    fakes = _fakes(2, (30, 30))
    classifier = make_classifier(*fakes)
    answered: list[int] = []
    refused: list[ClosedError] = []

    def work() -> None:
        try:
            while True:
                answered.append(classifier.predict(fakes[0].image(2)).index)
        except ClosedError as error:
            refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    closers = [threading.Thread(target=classifier.close) for _ in range(2)]
    for closer in closers:
        closer.start()
    for thread in (*closers, *threads):
        thread.join(10)
        assert not thread.is_alive()
    assert all(fake.closed for fake in fakes)
    assert set(answered) == {2}
    assert len(refused) == 5
    with pytest.raises(ClosedError, match="load the bundle again"):
        next(classifier.predict_many([fakes[0].image(0)]))


def test_the_copy_used_last_is_used_first(
    make_classifier: Callable[..., DynamicClassifier],
) -> None:
    fakes = _fakes(3)
    classifier = make_classifier(*fakes)
    used = [len(fake.stages_run) for fake in fakes]
    for _ in range(10):
        classifier.predict(fakes[0].image(0))
    assert sorted(
        len(fake.stages_run) - before for fake, before in zip(fakes, used, strict=True)
    ) == [0, 0, 20]


@pytest.mark.parametrize("program", ["litert/float32", "litert/int8"])
def test_real_programs_answer_as_one_thread_does(calibrated: Bundle, program: str) -> None:
    images = [*calibrated.vectors().images] * 40
    with DynamicClassifier.load(calibrated, program=program, policy="default") as classifier:
        expected = [classifier.predict(image) for image in images]
    with DynamicClassifier.load(
        calibrated, program=program, policy="default", workers=4
    ) as classifier:
        answers = list(classifier.predict_many(iter(images)))
    for got, wanted in zip(answers, expected, strict=True):
        assert (got.index, got.exit) == (wanted.index, wanted.exit)
        np.testing.assert_array_equal(got.probabilities, wanted.probabilities)
