"""The edges of a program: compared with the manifest, written to and read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp.errors import ProgramError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from offramp.bundle import ProgramStage, TensorEntry

__all__ = ["Edge", "ImageInput", "compare_edges", "compare_names", "logits_reader"]

_RELATIVE_SCALE_ERROR = 1e-6  # the manifest keeps decimal digits of a float32


@final
@dataclass(frozen=True, slots=True)
class Edge:
    """One tensor, as the program itself tells it.

    Attributes:
        dtype: Such as ``float32``.
        shape: Batch included.
        quantization: ``(scale, zero point)`` of an integer tensor.
    """

    dtype: str
    shape: tuple[int, ...]
    quantization: tuple[float, int] | None = None


def compare_names(found: Sequence[str], stages: int) -> list[str]:
    """The names of the stages, which must be those of the program.

    Raises:
        ProgramError: The program has others.
    """
    expected = [f"stage_{place}" for place in range(stages)]
    if sorted(found) != sorted(expected):
        raise ProgramError(f"the program has the signatures {sorted(found)}, expected {expected}")
    return expected


def compare_edges(
    name: str, inputs: Sequence[Edge], outputs: Sequence[Edge], stage: ProgramStage
) -> None:
    """Compare one stage of a program with the manifest.

    Args:
        name: Of the stage.
        inputs: As the program has them.
        outputs: As the program has them.
        stage: As the manifest lists them.

    Raises:
        ProgramError: The number of tensors, a shape, a dtype or a quantisation differs.
    """
    sides = (len(inputs), len(outputs))
    if sides != (len(stage.inputs), len(stage.outputs)):
        raise ProgramError(
            f"{name} of the program has {sides[0]} inputs and {sides[1]} outputs, "
            f"the manifest lists {len(stage.inputs)} and {len(stage.outputs)}"
        )
    for side, edges, entries in (
        ("input", inputs, stage.inputs),
        ("output", outputs, stage.outputs),
    ):
        for place, (edge, entry) in enumerate(zip(edges, entries, strict=True)):
            if (edge.dtype, edge.shape) != (entry.dtype, entry.shape) or not _same_scale(
                edge.quantization, entry
            ):
                listed = entry.quantization and (
                    entry.quantization.scale,
                    entry.quantization.zero_point,
                )
                raise ProgramError(
                    f"{side} {place} of {name} is {edge.dtype} {edge.shape} with scale and zero "
                    f"point {edge.quantization}, the manifest lists {entry.dtype} {entry.shape} "
                    f"with {listed}"
                )


def _same_scale(found: tuple[float, int] | None, entry: TensorEntry) -> bool:
    listed = entry.quantization
    if found is None or listed is None:
        return found is None and listed is None
    near = abs(found[0] - listed.scale) <= _RELATIVE_SCALE_ERROR * listed.scale
    return near and found[1] == listed.zero_point


def logits_reader(stored: NDArray[Any], entry: TensorEntry) -> Callable[[], NDArray[np.float32]]:
    """A function that copies the logits out of the array they are written to, as float32.

    Args:
        stored: Any shape of ``classes`` elements; read again at each call.
        entry: What the manifest says of it.

    Returns:
        A function that gives a new ``(classes,)`` array.
    """
    flat = stored.reshape(-1)
    if entry.quantization is None:

        def read() -> NDArray[np.float32]:
            return flat.astype(np.float32)

    else:
        scale = np.float32(entry.quantization.scale)
        zero_point = np.float32(entry.quantization.zero_point)

        def read() -> NDArray[np.float32]:
            values: NDArray[np.float32] = flat.astype(np.float32)
            values -= zero_point
            values *= scale
            return values

    return read


@final
class ImageInput:
    """From an image to what the program's input holds.

    Args:
        entry: What the manifest says of the input.
        into: ``(height, width, 3)``, the memory that is filled at each call.
    """

    def __init__(self, entry: TensorEntry, into: NDArray[Any]) -> None:
        self.shape = entry.shape[1:]
        self._into = into
        self._table: NDArray[Any] | None = None
        if entry.quantization is not None:
            bounds = np.iinfo(entry.dtype)
            stored = np.rint(np.arange(256) / entry.quantization.scale)
            stored += entry.quantization.zero_point
            self._table = stored.clip(bounds.min, bounds.max).astype(entry.dtype)

    def __call__(self, image: NDArray[np.uint8]) -> None:
        """Fill the input.

        Raises:
            ShapeError: The image has another shape or dtype.
        """
        # Broadcasting would take a smaller image without a word.
        if (
            not isinstance(image, np.ndarray)
            or image.shape != self.shape
            or image.dtype != np.uint8
        ):
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
            raise ShapeError(f"the image is {got}, expected uint8 {self.shape}")
        if self._table is None:
            np.copyto(self._into, image)
        else:
            # Every index is a uint8 and the table has 256 entries; "clip" spares the check.
            self._table.take(image, out=self._into, mode="clip")
