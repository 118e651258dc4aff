"""The contract holds for every runtime, and catches runtimes that break it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp.errors import ClosedError, ProgramError, ShapeError
from offramp.runtimes import BoundProgram, LiteRTRuntime, Runtime
from offramp.testing import FakeRuntime, RuntimeCase, RuntimeContract

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _fake_case() -> RuntimeCase:
    logits = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    images = np.stack([FakeRuntime(logits).image(row) for row in range(4)])
    return RuntimeCase(lambda: FakeRuntime(logits), images, logits)


class TestFakeRuntime(RuntimeContract):
    def case(self) -> RuntimeCase:
        return _fake_case()


class _LiteRT(RuntimeContract):
    precision: str
    tolerance: float

    @pytest.fixture(autouse=True)
    def _programs(self, programs: Any) -> None:
        self.programs = programs

    def case(self) -> RuntimeCase:
        data, stages = (kind[self.precision] for kind in (self.programs.data, self.programs.stages))
        return RuntimeCase(
            lambda: LiteRTRuntime(data, stages),
            self.programs.images,
            self.programs.logits[self.precision],
            self.tolerance,
        )


class TestLiteRTFloat32(_LiteRT):
    precision = "float32"
    tolerance = 1e-5


class TestLiteRTInt8(_LiteRT):
    precision = "int8"
    tolerance = 0.02  # one step of the logits' scale


class _Broken(Runtime):
    """Breaks one promise at a time."""

    def __init__(self, inner: FakeRuntime, fault: str) -> None:
        self.inner, self.fault = inner, fault
        self.shared = np.zeros(5, np.float32)
        self.image: NDArray[np.uint8] | None = None

    @property
    def num_stages(self) -> int:
        return self.inner.num_stages

    def start(self, image: NDArray[np.uint8]) -> None:
        try:
            self.inner.start(image)
        except ShapeError:
            if self.fault != "any image":
                raise
        except ClosedError:
            if self.fault != "never closed":
                raise
        self.image = image

    def run(self, stage: int) -> NDArray[np.float32]:
        if self.fault == "late image" and stage == 0 and self.image is not None:
            self.inner.start(self.image)
        try:
            answer = self.inner.run(stage)
        except ProgramError:
            if self.fault != "any order":
                raise
            answer = self.shared
        if self.fault == "wrong answer":
            answer = answer + np.float32(0.1)
        if self.fault == "float64":
            return answer.astype(np.float64)
        if self.fault == "shared array":
            self.shared[:] = answer
            return self.shared
        return answer

    def bind(self) -> BoundProgram:
        start, stages = super().bind()
        # It takes the last stage for the first.
        return BoundProgram(start, stages[::-1] if self.fault == "wrong binding" else stages)

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("wrong answer", "test_every_stage_answers_every_image"),
        ("wrong binding", "test_bound_stages_are_the_stages"),
        ("float64", "test_every_stage_answers_every_image"),
        ("shared array", "test_answers_are_the_callers_own"),
        ("late image", "test_the_image_is_read_at_the_start"),
        ("any order", "test_stages_run_in_order_only"),
        ("any image", "test_other_images_are_refused"),
        ("never closed", "test_closed_means_closed"),
    ],
)
def test_the_contract_catches(fault: str, test: str) -> None:
    sound = _fake_case()

    class Contract(RuntimeContract):
        def case(self) -> RuntimeCase:
            def open_broken() -> Runtime:
                return _Broken(FakeRuntime(sound.logits), fault)

            return RuntimeCase(open_broken, sound.images, sound.logits)

    with pytest.raises((AssertionError, ProgramError)):
        getattr(Contract(), test)()


def test_fake_runtime_says_what_it_ran() -> None:
    fake = FakeRuntime(np.zeros((3, 300, 2)))
    fake.start(fake.image(299))
    fake.run(0)
    assert fake.stages_run == [0]
    with pytest.raises(ValueError, match="no row 300"):
        fake.image(300)
    with pytest.raises(ShapeError, match="exits, images, classes"):
        FakeRuntime(np.zeros((3, 2)))
