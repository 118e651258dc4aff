"""Order, checks and copies, for any engine that runs stages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.errors import ClosedError, ProgramError
from offramp.runtimes._base import BoundProgram, BoundStage, Runtime
from offramp.runtimes._edges import (
    check_image,
    compare_edges,
    compare_names,
    image_writer,
    logits_reader,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp.bundle import ProgramStage
    from offramp.runtimes._engine import Engine

__all__ = ["StagedRuntime"]


@final
class StagedRuntime(Runtime):
    """A program that an engine runs stage by stage.

    Args:
        engine: With the program loaded; closed together with the runtime, and at once if the
            program is not what the manifest says.
        stages: What the manifest says of each stage; compared with the program.

    Raises:
        ProgramError: The engine refused the program, or its stages, shapes, dtypes or quantisation
            are not those of the manifest.
    """

    def __init__(self, engine: Engine, stages: tuple[ProgramStage, ...]) -> None:
        self._name = engine.name
        self._engine: Engine | None = engine
        self._stages = len(stages)
        self._next_stage: int | None = None
        try:
            edges = engine.edges()
            for name, stage in zip(compare_names(list(edges), len(stages)), stages, strict=True):
                compare_edges(name, edges[name].inputs, edges[name].outputs, stage)
            buffers = engine.bind(stages)
            self._input = stages[0].inputs[0]
            self._write = image_writer(self._input, buffers.image)
            self._logits = [
                logits_reader(array, stage.outputs[0])
                for array, stage in zip(buffers.logits, stages, strict=True)
            ]
            # Kernels are chosen and memory is taken at the first run, not while a user waits.
            self.start(np.zeros(self._input.shape[1:], np.uint8))
            for number in range(len(stages)):
                self.run(number)
            self._next_stage = None
        except BaseException:
            self.close()
            raise

    @property
    def engine(self) -> str:
        """What runs the program, and its version."""
        return self._name

    @property
    def num_stages(self) -> int:
        """How many stages the program has."""
        return self._stages

    def start(self, image: NDArray[np.uint8]) -> None:
        """Put a new image into the program's own input buffer."""
        if self._engine is None:
            raise ClosedError("this runtime is closed; open the program again")
        # Until the image is in there is nothing to run.
        self._next_stage = None
        check_image(image, self._input)
        self._write(image)
        self._next_stage = 0

    def run(self, stage: int) -> NDArray[np.float32]:
        """Run one stage on the image, or on the carry of the stage before it."""
        self.skip(stage)
        return self._logits[stage]()

    def skip(self, stage: int) -> None:
        """Run one stage and leave its logits where they are."""
        engine = self._engine
        if engine is None or stage != self._next_stage or stage == self._stages:
            raise self._out_of_turn(stage)
        # Until it has succeeded there is no carry to go on from.
        self._next_stage = None
        engine.run(stage)
        self._next_stage = stage + 1

    def bind(self) -> BoundProgram:
        """The methods, with logits fetched only where they are asked for."""
        return BoundProgram(self.start, tuple(map(self._bind, range(self._stages))))

    def _bind(self, stage: int) -> BoundStage:
        def logits() -> NDArray[np.float32]:
            # Looked up each time: it holds the engine's memory, which must not outlive the engine.
            return self._logits[stage]()

        def logits_list() -> list[float]:
            values: list[float] = logits().tolist()
            return values

        return BoundStage(partial(self.skip, stage), logits, logits_list)

    def _out_of_turn(self, stage: int) -> ClosedError | ProgramError:
        if self._engine is None:
            return ClosedError("this runtime is closed; open the program again")
        if not 0 <= stage < self._stages:
            return ProgramError(f"no stage {stage}; the program has {self._stages}")
        expected = "start(image)" if self._next_stage is None else f"run({self._next_stage})"
        return ProgramError(f"stage {stage} is out of turn; call {expected} next")

    def close(self) -> None:
        """Free the program; may be called more than once."""
        engine, self._engine = self._engine, None
        if engine is not None:
            # Both hold the engine's memory.
            self._write = self._logits = None  # type: ignore[assignment]
            engine.close()
