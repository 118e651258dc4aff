"""Programs for LiteRT, the default runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp.errors import ClosedError, ProgramError, ShapeError
from offramp.runtimes._base import Runtime
from offramp.runtimes._litert_engine import LiteRTEngine, Signature, refusals

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from offramp.bundle import ProgramStage, TensorEntry

__all__ = ["LiteRTRuntime"]

_UINT8 = np.dtype(np.uint8)
_HIGHEST_BIT = np.uint8(128)
_RELATIVE_SCALE_ERROR = 1e-6  # the manifest keeps decimal digits of a float32


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
        expected = [f"stage_{place}" for place in range(len(stages))]
        if sorted(signatures) != sorted(expected):
            raise ProgramError(
                f"the program has the signatures {sorted(signatures)}, expected {expected}"
            )
        for name, stage in zip(expected, stages, strict=True):
            _compare(signatures[name], stage)
        self._engine: LiteRTEngine | None = engine
        self._runs: list[Callable[[], int]] = []
        self._logits: list[Callable[[], NDArray[np.float32]]] = []
        image, *_ = carry = engine.buffers(signatures["stage_0"].inputs)
        for name, stage in zip(expected, stages, strict=True):
            run, outputs = engine.bind(signatures[name], carry)
            if outputs[0] in carry:
                raise ProgramError(f"the logits of {name} are one of its inputs; export it anew")
            self._runs.append(run)
            self._logits.append(_reader(outputs[0].array[0], stage.outputs[0]))
            carry = outputs[1:]
        self._put = _Input(image.array[0], stages[0].inputs[0])
        self._next_stage: int | None = None
        # Kernels are chosen and memory is taken at a stage's first run, not while a user waits.
        with refusals("run the program"):
            self.start(np.zeros(self._put.shape, np.uint8))
            for stage_number in range(len(stages)):
                self.run(stage_number)
        self._next_stage = None

    @property
    def num_stages(self) -> int:
        """How many stages the program has."""
        return len(self._logits)

    def start(self, image: NDArray[np.uint8]) -> None:
        """Put a new image into the program's own input buffer."""
        if self._engine is None:
            raise ClosedError("this runtime is closed; open the program again")
        self._next_stage = None
        self._put(image)
        self._next_stage = 0

    def run(self, stage: int) -> NDArray[np.float32]:
        """Run one stage on the image, or on the carry of the stage before it."""
        self.skip(stage)
        return self._logits[stage]()

    def skip(self, stage: int) -> None:
        """Run one stage and leave its logits where they are."""
        if stage != self._next_stage or stage == len(self._runs):
            raise self._out_of_turn(stage)
        # Until it has succeeded there is no carry to go on from.
        self._next_stage = None
        status = self._runs[stage]()
        if status:
            raise ProgramError(f"LiteRT could not run stage {stage}: status {status}")
        self._next_stage = stage + 1

    def _out_of_turn(self, stage: int) -> ClosedError | ProgramError:
        if self._engine is None:
            return ClosedError("this runtime is closed; open the program again")
        if not 0 <= stage < len(self._runs):
            return ProgramError(f"no stage {stage}; the program has {len(self._runs)}")
        expected = "start(image)" if self._next_stage is None else f"run({self._next_stage})"
        return ProgramError(f"stage {stage} is out of turn; call {expected} next")

    def close(self) -> None:
        """Free the program; may be called more than once."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            self._next_stage = None
            del self._runs[:]
            self._logits = [_gone] * len(self._logits)
            engine.close()


def _gone() -> NDArray[np.float32]:
    raise ClosedError("this runtime is closed; open the program again")


def _compare(signature: Signature, stage: ProgramStage) -> None:
    found = (*signature.inputs, *signature.outputs)
    expected = (*stage.inputs, *stage.outputs)
    sides = (len(signature.inputs), len(signature.outputs))
    if sides != (len(stage.inputs), len(stage.outputs)):
        raise ProgramError(
            f"{signature.name} of the program has {sides[0]} inputs and {sides[1]} outputs, "
            f"the manifest lists {len(stage.inputs)} and {len(stage.outputs)}"
        )
    names = [f"input {place}" for place in range(sides[0])]
    names += [f"output {place}" for place in range(sides[1])]
    for name, (dtype, shape), scale, entry in zip(
        names, found, signature.quantizations, expected, strict=True
    ):
        if (dtype, shape) != (entry.dtype, entry.shape) or not _same_scale(scale, entry):
            listed = entry.quantization and (
                entry.quantization.scale,
                entry.quantization.zero_point,
            )
            raise ProgramError(
                f"{name} of {signature.name} is {dtype} {shape} with scale and zero point {scale}, "
                f"the manifest lists {entry.dtype} {entry.shape} with {listed}"
            )


def _same_scale(found: tuple[float, int] | None, entry: TensorEntry) -> bool:
    listed = entry.quantization
    if found is None or listed is None:
        return found is None and listed is None
    near = abs(found[0] - listed.scale) <= _RELATIVE_SCALE_ERROR * listed.scale
    return near and found[1] == listed.zero_point


def _reader(stored: NDArray[Any], entry: TensorEntry) -> Callable[[], NDArray[np.float32]]:
    """A function that copies the logits out of the array they are written to, as float32."""
    if entry.quantization is None:
        return stored.copy if stored.dtype == np.float32 else lambda: stored.astype(np.float32)
    # All 256 answers are known: one look-up instead of three passes. The bits of a stored number
    # are its place in the table.
    values = np.arange(256, dtype=np.uint8).view(stored.dtype).astype(np.float32)
    values -= np.float32(entry.quantization.zero_point)
    values *= np.float32(entry.quantization.scale)
    bits = stored.view(np.uint8)
    return lambda: values.take(bits)


@final
class _Input:
    """Puts an image into the program's input buffer.

    Args:
        array: ``(height, width, 3)``, the buffer itself.
        entry: What the manifest says of it.
    """

    def __init__(self, array: NDArray[Any], entry: TensorEntry) -> None:
        self.shape = array.shape
        self._array = array
        self._table: NDArray[Any] | None = None
        if entry.quantization is not None:
            bounds = np.iinfo(entry.dtype)
            stored = np.rint(np.arange(256) / entry.quantization.scale)
            stored += entry.quantization.zero_point
            self._table = stored.clip(bounds.min, bounds.max).astype(entry.dtype)
        # Scale 1 and zero point -128, the rule for images, only turns the highest bit over.
        turned = np.arange(256, dtype=np.uint8) ^ _HIGHEST_BIT
        self._bits: NDArray[np.uint8] | None = None
        if self._table is not None and np.array_equal(self._table.view(np.uint8), turned):
            self._bits = array.view(np.uint8)

    def __call__(self, image: NDArray[np.uint8]) -> None:
        # Broadcasting would take a smaller image without a word.
        if not isinstance(image, np.ndarray) or image.shape != self.shape or image.dtype != _UINT8:
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
            raise ShapeError(f"the image is {got}, expected uint8 {self.shape}")
        if self._bits is not None:
            np.bitwise_xor(image, _HIGHEST_BIT, out=self._bits)
        elif self._table is None:
            np.copyto(self._array, image)
        else:
            # Every index is a uint8 and the table has 256 entries; "clip" spares the check.
            self._table.take(image, out=self._array, mode="clip")
