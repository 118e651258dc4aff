"""Programs for LiteRT, the default runtime."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, NoReturn, final

import numpy as np

from offramp.errors import ClosedError, ProgramError
from offramp.runtimes._base import BoundProgram, BoundStage, Runtime
from offramp.runtimes._edges import (
    Edge,
    check_image,
    compare_edges,
    compare_names,
    image_writer,
    list_reader,
    logits_reader,
    steps_reader,
)
from offramp.runtimes._litert_api import PACKAGE
from offramp.runtimes._litert_engine import LiteRTEngine, Signature, refusals

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from offramp.bundle import ProgramStage

__all__ = ["LiteRTRuntime"]


@final
class LiteRTRuntime(Runtime):
    """A LiteRT program whose stages are signatures chained by their buffers.

    A stage's carry buffers are the next stage's inputs, so nothing is copied between stages.

    Args:
        program: The ``.tflite`` file's content, whose SHA-256 has been checked.
        stages: What the manifest says of each stage; compared with the program.
        threads: How many threads the kernels may use.

    Raises:
        ProgramError: LiteRT refused the program, or its signatures, shapes, dtypes or quantisation
            are not those of the manifest.
    """

    def __init__(
        self, program: bytes, stages: tuple[ProgramStage, ...], *, threads: int = 1
    ) -> None:
        engine = LiteRTEngine(program, threads=threads)
        signatures = {signature.name: signature for signature in engine.signatures()}
        names = compare_names(list(signatures), len(stages))
        for name, stage in zip(names, stages, strict=True):
            compare_edges(name, *_edges(signatures[name]), stage)
        self._engine: LiteRTEngine | None = engine
        self._runs: list[Callable[[], int]] = []
        self._logits: list[Callable[[], NDArray[np.float32]]] = []
        self._lists: list[Callable[[], list[float]]] = []
        self._steps: list[Callable[[], list[float]] | None] = []
        image, *_ = carry = engine.buffers(signatures["stage_0"].inputs)
        for name, stage in zip(names, stages, strict=True):
            run, outputs = engine.bind(signatures[name], carry)
            if outputs[0] in carry:
                raise ProgramError(f"the logits of {name} are one of its inputs; export it anew")
            self._runs.append(run)
            self._logits.append(logits_reader(outputs[0].array, stage.outputs[0]))
            self._lists.append(list_reader(outputs[0].array, stage.outputs[0]))
            self._steps.append(steps_reader(outputs[0].array, stage.outputs[0]))
            carry = outputs[1:]
        self._input = stages[0].inputs[0]
        self._put = image_writer(self._input, image.array[0])
        self._entries = stages
        self._stages = len(stages)
        self._next_stage: int | None = None
        # Kernels are chosen and memory is taken at a stage's first run, not while a user waits.
        with refusals("run the program"):
            self.start(np.zeros(self._input.shape[1:], np.uint8))
            for stage_number in range(len(stages)):
                self.run(stage_number)
        self._next_stage = None

    @property
    def engine(self) -> str:
        """The package, and its version."""
        return f"{PACKAGE} {version(PACKAGE)}"

    @property
    def num_stages(self) -> int:
        """How many stages the program has."""
        return self._stages

    def start(self, image: NDArray[np.uint8]) -> None:
        """Put a new image into the program's own input buffer."""
        if self._engine is None:
            raise ClosedError("this runtime is closed; open the program again")
        self._next_stage = None
        check_image(image, self._input)
        self._put(image)
        self._next_stage = 0

    def run(self, stage: int) -> NDArray[np.float32]:
        """Run one stage on the image, or on the carry of the stage before it."""
        self.skip(stage)
        return self._logits[stage]()

    def skip(self, stage: int) -> None:
        """Run one stage and leave its logits where they are."""
        if stage != self._next_stage or stage == self._stages:
            raise self._out_of_turn(stage)
        # Until it has succeeded there is no carry to go on from.
        self._next_stage = None
        status = self._runs[stage]()
        if status:
            raise ProgramError(f"LiteRT could not run stage {stage}: status {status}")
        self._next_stage = stage + 1

    def bind(self) -> BoundProgram:
        """The engine's own functions, and its memory."""
        scales = [stage.outputs[0].quantization for stage in self._entries]
        step = [1.0 if scale is None else scale.scale for scale in scales]
        stages = map(BoundStage, self._runs, self._logits, self._lists, self._steps, step)
        return BoundProgram(self._put, tuple(stages))

    def _out_of_turn(self, stage: int) -> ClosedError | ProgramError:
        if self._engine is None:
            return ClosedError("this runtime is closed; open the program again")
        if not 0 <= stage < self._stages:
            return ProgramError(f"no stage {stage}; the program has {self._stages}")
        expected = "start(image)" if self._next_stage is None else f"run({self._next_stage})"
        return ProgramError(f"stage {stage} is out of turn; call {expected} next")

    def close(self) -> None:
        """Free the program; may be called more than once."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            self._next_stage = None
            del self._runs[:]
            self._logits = [_gone] * self._stages
            self._lists = [_gone] * self._stages
            engine.close()


def _gone() -> NoReturn:
    raise ClosedError("this runtime is closed; open the program again")


def _edges(signature: Signature) -> tuple[list[Edge], list[Edge]]:
    """The inputs and the outputs."""
    tensors = zip((*signature.inputs, *signature.outputs), signature.quantizations, strict=True)
    edges = [Edge(dtype, shape, scale) for (dtype, shape), scale in tensors]
    return edges[: len(signature.inputs)], edges[len(signature.inputs) :]
