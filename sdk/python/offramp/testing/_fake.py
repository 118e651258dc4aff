"""A runtime without an engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.errors import ClosedError, ProgramError, ShapeError
from offramp.runtimes import Runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["FakeRuntime"]


@final
class FakeRuntime(Runtime):
    """Answers with the logits it was given, and obeys the rules of a real runtime.

    An image says which answer it wants: ``fake.image(row)`` makes the one for a row, and any other
    image of the right size gets the row that its first two bytes spell.

    Args:
        logits: ``(exits, images, classes)`` float.
        image_shape: ``(height, width)`` of the images it takes.
        stage_ms: How long each stage sleeps; empty for not at all.
    """

    def __init__(
        self,
        logits: ArrayLike,
        *,
        image_shape: tuple[int, int] = (8, 8),
        stage_ms: Sequence[float] = (),
    ) -> None:
        self._logits = np.array(logits, dtype=np.float32)
        if self._logits.ndim != 3 or 0 in self._logits.shape:
            raise ShapeError(
                f"the logits have shape {self._logits.shape}, expected (exits, images, classes)"
            )
        if stage_ms and len(stage_ms) != len(self._logits):
            raise ShapeError(f"{len(stage_ms)} stage times for {len(self._logits)} stages")
        self._shape = (*image_shape, 3)
        self._stage_ms = tuple(stage_ms)
        self._row = 0
        self._next_stage: int | None = None
        self._closed = False
        self.stages_run: list[int] = []
        """The stages run since the runtime was made, in order."""

    def image(self, row: int) -> NDArray[np.uint8]:
        """The image that is answered with a row of the logits."""
        if not 0 <= row < min(self._logits.shape[1], 2**16):
            raise ValueError(f"no row {row}; there are {self._logits.shape[1]}")
        image = np.zeros(self._shape, np.uint8)
        image[0, 0, :2] = divmod(row, 256)
        return image

    @property
    def num_stages(self) -> int:
        """How many exits the logits have."""
        return len(self._logits)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def start(self, image: NDArray[np.uint8]) -> None:
        """Note which row the image asks for."""
        self._check_open()
        self._next_stage = None
        if image.shape != self._shape or image.dtype != np.uint8:
            raise ShapeError(
                f"the image is {image.dtype} {image.shape}, expected uint8 {self._shape}"
            )
        high, low = image[0, 0, :2].tolist()
        self._row = (256 * high + low) % self._logits.shape[1]
        self._next_stage = 0

    def run(self, stage: int) -> NDArray[np.float32]:
        """Answer with the logits of one exit."""
        self._check_open()
        if stage != self._next_stage or stage >= len(self._logits):
            raise ProgramError(f"stage {stage} is out of turn, expected {self._next_stage}")
        if self._stage_ms:
            time.sleep(self._stage_ms[stage] / 1e3)
        self.stages_run.append(stage)
        self._next_stage = stage + 1
        answer: NDArray[np.float32] = self._logits[stage, self._row].copy()
        return answer

    def close(self) -> None:
        """Refuse everything from now on; may be called more than once."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this runtime is closed; make a new one")
