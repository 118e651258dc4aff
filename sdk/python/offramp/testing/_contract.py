"""What every runtime owes its caller, as tests."""

from __future__ import annotations

import functools
import itertools
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.errors import ClosedError, OfframpError, ProgramError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from offramp.runtimes import Runtime

__all__ = ["RuntimeCase", "RuntimeContract"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class RuntimeCase:
    """A runtime to test, and what it must answer.

    Attributes:
        open: Makes a new, independent runtime of the same program.
        images: ``(images, height, width, 3)`` uint8, at least two that are answered differently.
        logits: ``(exits, images, classes)`` float32, the right answers.
        tolerance: The largest difference from them that is still right.
    """

    open: Callable[[], Runtime]
    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    tolerance: float = 1e-5


class RuntimeContract(ABC):
    """Tests of the promises in ``offramp.runtimes.Runtime``.

    Derive a class named ``Test...`` in a pytest module and implement ``case``; every method whose
    name begins with ``test_`` is then run on that runtime.
    """

    @abstractmethod
    def case(self) -> RuntimeCase:
        """The runtime under test."""

    def test_every_stage_answers_every_image(self) -> None:
        """All exits of all images give the right logits, as float32, one per class."""
        case = self.case()
        with case.open() as runtime:
            assert runtime.num_stages == len(case.logits)
            for number in range(len(case.images)):
                for stage, answer in enumerate(_chain(runtime, case.images[number])):
                    assert answer.dtype == np.float32
                    assert answer.shape == case.logits.shape[2:]
                    _assert_close(answer, case.logits[stage, number], case.tolerance)

    def test_an_image_is_answered_alike_after_another(self) -> None:
        """Nothing of an image is left when the next one starts, however far it went."""
        case = self.case()
        with case.open() as runtime:
            first = _chain(runtime, case.images[0])
            assert any((_chain(runtime, other)[0] != first[0]).any() for other in case.images[1:])
            for stages in range(runtime.num_stages + 1):
                runtime.start(case.images[1])
                for stage in range(stages):
                    runtime.run(stage)
                for before, after in zip(first, _chain(runtime, case.images[0]), strict=True):
                    np.testing.assert_array_equal(before, after)

    def test_answers_repeat_to_the_bit(self) -> None:
        """One image is answered alike every time, and by every runtime of one program."""
        case = self.case()
        with case.open() as runtime, case.open() as other:
            first = _chain(runtime, case.images[0])
            for again in (runtime, other, runtime):
                for before, after in zip(first, _chain(again, case.images[0]), strict=True):
                    np.testing.assert_array_equal(before, after)

    def test_runtimes_of_one_program_do_not_meet(self) -> None:
        """Another runtime may run between the stages of one, and close, without a trace."""
        case = self.case()
        with case.open() as runtime:
            expected = _chain(runtime, case.images[0])
            runtime.start(case.images[0])
            for stage, answer in enumerate(expected):
                with case.open() as other:
                    _chain(other, case.images[1])
                np.testing.assert_array_equal(runtime.run(stage), answer)

    def test_a_skipped_stage_hands_on_its_carry(self) -> None:
        """Stages after a skipped one answer as if it had been asked, and in the same order."""
        case = self.case()
        with case.open() as runtime:
            expected = _chain(runtime, case.images[0])
            last = runtime.num_stages - 1
            # Every way to ask some of the exits, and not the others.
            for asked in itertools.product((True, False), repeat=last + 1):
                runtime.start(case.images[0])
                for stage, ask in enumerate(asked):
                    if ask:
                        np.testing.assert_array_equal(runtime.run(stage), expected[stage])
                    else:
                        runtime.skip(stage)
                    _assert_raises(ProgramError, functools.partial(runtime.skip, stage))
            runtime.start(case.images[0])
            _assert_raises(ProgramError, lambda: runtime.skip(last + 1))

    def test_bound_stages_are_the_stages(self) -> None:
        """``bind`` gives the same answers, whichever stages are asked, and as floats, too."""
        case = self.case()
        with case.open() as runtime:
            expected = [_chain(runtime, image) for image in case.images]
            program = runtime.bind()
            assert len(program.stages) == runtime.num_stages
            for asked in itertools.product((True, False), repeat=runtime.num_stages):
                for image, right in zip(case.images, expected, strict=True):
                    program.start(image)
                    for ask, stage, logits in zip(asked, program.stages, right, strict=True):
                        assert not stage.run()
                        if ask:
                            assert stage.logits().dtype == np.float32
                            np.testing.assert_array_equal(stage.logits(), logits)
                            assert stage.logits_list() == logits.tolist()
                            if stage.steps is not None:
                                apart = stage.step * (np.array(stage.steps()) - stage.steps()[0])
                                np.testing.assert_allclose(apart, logits - logits[0], 1e-5, 1e-4)
            # The runtime itself is none the worse for it.
            np.testing.assert_array_equal(_chain(runtime, case.images[0]), expected[0])

    def test_bound_stages_of_a_closed_runtime_fail(self) -> None:
        """They do not end the process."""
        case = self.case()
        with case.open() as runtime:
            program = runtime.bind()
            program.start(case.images[0])
        for stage in program.stages:
            try:
                assert stage.run()
            except OfframpError:
                continue

    def test_answers_are_the_callers_own(self) -> None:
        """No later call changes an array that was handed out, nor does changing it do harm."""
        case = self.case()
        with case.open() as runtime:
            answers = _chain(runtime, case.images[0])
            kept = [answer.copy() for answer in answers]
            _chain(runtime, case.images[1])
            for answer, copy in zip(answers, kept, strict=True):
                np.testing.assert_array_equal(answer, copy)
                answer[:] = np.nan
            for answer, copy in zip(_chain(runtime, case.images[0]), kept, strict=True):
                np.testing.assert_array_equal(answer, copy)
        assert all(np.isnan(answer).all() for answer in answers)

    def test_the_image_is_read_at_the_start(self) -> None:
        """The caller may use the image's memory again as soon as ``start`` returns."""
        case = self.case()
        with case.open() as runtime:
            image = case.images[0].copy()
            runtime.start(image)
            image[:] = case.images[1]
            _assert_close(runtime.run(0), case.logits[0, 0], case.tolerance)

    def test_stages_run_in_order_only(self) -> None:
        """A stage before its predecessor, twice, or out of range is refused."""
        case = self.case()
        with case.open() as runtime:
            last = runtime.num_stages - 1
            _assert_raises(ProgramError, lambda: runtime.run(0))
            runtime.start(case.images[0])
            for stage in (-1, last + 1, *range(1, last + 1)):
                _assert_raises(ProgramError, functools.partial(runtime.run, stage))
            for stage in range(last + 1):
                runtime.run(stage)
                _assert_raises(ProgramError, functools.partial(runtime.run, stage))
            _assert_raises(ProgramError, lambda: runtime.run(last + 1))
            runtime.start(case.images[0])
            _assert_close(runtime.run(0), case.logits[0, 0], case.tolerance)

    def test_other_images_are_refused(self) -> None:
        """Shape and dtype are checked, and a refused image leaves nothing to run."""
        case = self.case()
        image = case.images[0]
        wrong = {
            "float": image.astype(np.float32),
            "int8": image.view(np.int8),
            "batch": image[None],
            "channel-first": image.transpose(2, 0, 1),
            "smaller": image[:-1],
            "grey": image[..., :1],
            "alpha": np.concatenate([image, image[..., :1]], axis=-1),
        }
        with case.open() as runtime:
            for other in wrong.values():
                runtime.start(image)
                _assert_raises(ShapeError, functools.partial(runtime.start, other))
                _assert_raises(ProgramError, lambda: runtime.run(0))

    def test_images_may_lie_in_memory_in_any_way(self) -> None:
        """Rows apart, mirrored, column by column, or not to be written: the answer is the same."""
        case = self.case()
        image = case.images[0]
        read_only = image.copy()
        read_only.flags.writeable = False
        views = {
            "strided": np.repeat(image, 2, axis=1)[:, ::2],
            "mirrored": np.ascontiguousarray(image[::-1, ::-1])[::-1, ::-1],
            "by column": np.asfortranarray(image),
            "channel first": np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0),
            "read only": read_only,
        }
        with case.open() as runtime:
            expected = _chain(runtime, np.ascontiguousarray(image))
            for view in views.values():
                np.testing.assert_array_equal(view, image)
                for answer, right in zip(_chain(runtime, view), expected, strict=True):
                    np.testing.assert_array_equal(answer, right)

    def test_closed_means_closed(self) -> None:
        """Closing twice is allowed, and using a closed runtime is refused."""
        case = self.case()
        runtime = case.open()
        runtime.start(case.images[0])
        answer = runtime.run(0)
        kept = answer.copy()
        runtime.close()
        runtime.close()
        _assert_raises(ClosedError, lambda: runtime.start(case.images[0]))
        for stage in (0, 1, -1):
            _assert_raises(ClosedError, functools.partial(runtime.run, stage))
            _assert_raises(ClosedError, functools.partial(runtime.skip, stage))
        np.testing.assert_array_equal(answer, kept)
        with case.open() as fresh:
            _assert_close(_chain(fresh, case.images[0])[-1], case.logits[-1, 0], case.tolerance)

    def test_runtimes_in_several_threads_do_not_meet(self) -> None:
        """Each thread with a runtime of its own gets the answers it would get alone."""
        case = self.case()

        def work(number: int) -> None:
            with case.open() as runtime:
                for turn in range(20):
                    row = (number + turn) % len(case.images)
                    answers = _chain(runtime, case.images[row])
                    _assert_close(answers[-1], case.logits[-1, row], case.tolerance)

        _in_threads([functools.partial(work, number) for number in range(3)])

    def test_a_runtime_may_change_threads(self) -> None:
        """A lock is enough to share one: no call depends on the thread that made it."""
        case = self.case()
        answers: list[NDArray[np.float32]] = []
        with case.open() as runtime:
            expected = _chain(runtime, case.images[0])
            calls: list[Callable[[], object]] = [lambda: runtime.start(case.images[0])]
            for stage in range(runtime.num_stages):
                calls.append(functools.partial(_append, answers, runtime, stage))
            for call in calls:
                _in_threads([call])
        for answer, right in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(answer, right)

    def test_threads_may_share_a_runtime_by_a_lock(self) -> None:
        """Whole images of several threads, one after the other, get their own answers."""
        case = self.case()
        lock = threading.Lock()
        with case.open() as runtime:
            expected = [_chain(runtime, image) for image in case.images]

            def work(number: int) -> None:
                for turn in range(20):
                    row = (number + turn) % len(case.images)
                    with lock:
                        answers = _chain(runtime, case.images[row])
                    for answer, right in zip(answers, expected[row], strict=True):
                        np.testing.assert_array_equal(answer, right)

            _in_threads([functools.partial(work, number) for number in range(4)])

    def test_the_engine_is_named(self) -> None:
        """What runs a program is never a secret, also when it is closed."""
        case = self.case()
        with case.open() as runtime:
            named = runtime.engine
        assert named
        assert runtime.engine == named


def _append(answers: list[NDArray[np.float32]], runtime: Runtime, stage: int) -> None:
    answers.append(runtime.run(stage))


def _in_threads(calls: Sequence[Callable[[], object]]) -> None:
    """Make every call in a thread of its own, all at once, and raise what the first raised."""
    faults: list[BaseException] = []

    def make(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=make, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


def _chain(runtime: Runtime, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    runtime.start(image)
    return [runtime.run(stage) for stage in range(runtime.num_stages)]


def _assert_close(
    answer: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float
) -> None:
    np.testing.assert_allclose(answer, expected, rtol=0, atol=tolerance)


def _assert_raises(kind: type[OfframpError], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"expected {kind.__name__}, nothing was raised")
