"""The interface of a loaded program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Self, final

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BoundProgram", "BoundStage", "Runtime"]


@final
class BoundProgram(NamedTuple):
    """A runtime as functions, to be called in order, and never once it is closed.

    Attributes:
        start: As ``Runtime.start``, of an image that is known to be of the right shape and dtype.
        stages: The stages.
    """

    start: Callable[[NDArray[np.uint8]], None]
    stages: tuple[BoundStage, ...]


@final
class BoundStage(NamedTuple):
    """One stage of a bound program.

    Attributes:
        run: Runs it. What it gives says how the engine failed, if it did; it may raise as well.
        logits: After that, a new ``(classes,)`` array of its float32 logits.
        logits_list: Or the same numbers as plain floats.
        steps: Or numbers that tell how far apart the logits are, if that is less work than to
            tell them; ``None`` if it is not.
        step: What a logit grows by, up to rounding to float32, where its number in ``steps`` grows
            by 1.
    """

    run: Callable[[], int | None]
    logits: Callable[[], NDArray[np.float32]]
    logits_list: Callable[[], list[float]]
    steps: Callable[[], list[float]] | None = None
    step: float = 1.0


class Runtime(ABC):
    """One loaded program, which runs its stages one after the other.

    ``DynamicClassifier`` calls ``start`` once per image and then ``run(0)``, ``run(1)``, ... until
    an exit answers. The carry between two stages never leaves the runtime. A runtime need not be
    thread-safe (its caller holds a lock) and must hand out arrays that no later call changes.
    """

    @property
    def engine(self) -> str:
        """What runs the program, and its version, such as ``tflite-runtime 2.14.0``.

        A runtime that is its own engine is called by the name of its class.
        """
        return type(self).__name__

    @property
    @abstractmethod
    def num_stages(self) -> int:
        """How many stages the program has."""

    @abstractmethod
    def start(self, image: NDArray[np.uint8]) -> None:
        """Put a new image into the program's own input buffer.

        Args:
            image: ``(height, width, 3)`` uint8, RGB, at the size the manifest asks for.

        Raises:
            ShapeError: The image has another shape or dtype.
            ClosedError: The runtime is closed.
        """

    @abstractmethod
    def run(self, stage: int) -> NDArray[np.float32]:
        """Run one stage on the image, or on the carry of the stage before it.

        Args:
            stage: The stage; 0 after ``start``, then one more at each call.

        Returns:
            ``(classes,)`` float32 logits, dequantised if the program is quantised.

        Raises:
            ProgramError: The stage is out of turn, or the engine failed.
            ClosedError: The runtime is closed.
        """

    def skip(self, stage: int) -> None:
        """Run one stage for its carry alone; its exit is not asked.

        As ``run``, but for the logits: a runtime that has to fetch them overrides this.
        """
        self.run(stage)

    def bind(self) -> BoundProgram:
        """The same as functions that may check nothing, for a caller in a hurry.

        Here they are the methods, so nothing is gained; a runtime that can do with less overrides
        this.
        """
        return BoundProgram(self.start, tuple(map(self._bind, range(self.num_stages))))

    def _bind(self, stage: int) -> BoundStage:
        answer: NDArray[np.float32]

        def run() -> None:
            nonlocal answer
            answer = self.run(stage)

        def logits() -> NDArray[np.float32]:
            return answer

        def logits_list() -> list[float]:
            values: list[float] = answer.tolist()
            return values

        return BoundStage(run, logits, logits_list)

    @abstractmethod
    def close(self) -> None:
        """Free the program; may be called more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
