"""The edges of a program: compared with the manifest, written to and read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp.bundle import Quantization
from offramp.errors import ProgramError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from offramp.bundle import ProgramStage, TensorEntry

__all__ = [
    "Edge",
    "check_image",
    "compare_edges",
    "compare_names",
    "image_writer",
    "list_reader",
    "logits_reader",
    "steps_reader",
]

_RELATIVE_SCALE_ERROR = 1e-6  # the manifest keeps decimal digits of a float32
_LARGEST_PIXEL = 255
_PIXELS = Quantization(scale=1.0, zero_point=0)  # a pixel is stored as what it is


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
    quantization = entry.quantization
    if quantization is None:
        return flat.copy if flat.dtype == np.float32 else lambda: flat.astype(np.float32)
    if flat.itemsize > 1:  # too many values for a table
        return lambda: _real(flat, quantization)
    table, bits = _table(flat.dtype, quantization), flat.view(np.uint8)
    return lambda: table.take(bits)


def list_reader(stored: NDArray[Any], entry: TensorEntry) -> Callable[[], list[float]]:
    """As ``logits_reader``, but plain floats: quicker for few classes.

    Args:
        stored: As there.
        entry: As there.

    Returns:
        A function that gives a new list of the same numbers.
    """
    flat = stored.reshape(-1)
    quantization = entry.quantization
    if quantization is None:
        # A view of the memory does it in less code, but knows no half floats.
        floats: Any = flat.data if flat.dtype == np.float32 else flat
        read: Callable[[], list[float]] = floats.tolist
        return read
    if flat.itemsize > 1:
        return lambda: _real(flat, quantization).tolist()
    number_of = _table(flat.dtype, quantization).tolist().__getitem__
    bits = flat.view(np.uint8).data
    return lambda: [*map(number_of, bits)]


def steps_reader(stored: NDArray[Any], entry: TensorEntry) -> Callable[[], list[float]] | None:
    """What a quantised program's logits are stored as: cheaper to read than what they mean.

    Args:
        stored: As for ``logits_reader``.
        entry: As there.

    Returns:
        A function that gives a new list; ``None`` for logits that are stored as they are.
    """
    if entry.quantization is None:
        return None
    steps: Any = stored.reshape(-1).data
    read: Callable[[], list[float]] = steps.tolist
    return read


def _table(dtype: np.dtype[Any], quantization: Quantization) -> NDArray[np.float32]:
    """All 256 numbers there are, each at the place that the bits of its stored form spell."""
    return _real(np.arange(256, dtype=np.uint8).view(dtype), quantization)


def _real(stored: NDArray[Any], quantization: Quantization) -> NDArray[np.float32]:
    values: NDArray[np.float32] = stored.astype(np.float32)
    values -= np.float32(quantization.zero_point)
    values *= np.float32(quantization.scale)
    return values


def check_image(image: NDArray[np.uint8], entry: TensorEntry) -> None:
    """Refuse an image that the program does not take: broadcasting would, without a word.

    Args:
        image: What is to be an image.
        entry: What the manifest says of the input.

    Raises:
        ShapeError: The image has another shape or dtype.
    """
    shape = entry.shape[1:]
    if not isinstance(image, np.ndarray) or image.shape != shape or image.dtype != np.uint8:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
        raise ShapeError(f"the image is {got}, expected uint8 {shape}")


def image_writer(entry: TensorEntry, into: NDArray[Any]) -> Callable[[NDArray[np.uint8]], None]:
    """A function that puts an image into what the program's input holds.

    Args:
        entry: What the manifest says of the input.
        into: ``(height, width, 3)``, the memory that is filled at each call.

    Returns:
        A function of an image of that size, which it does not check.
    """
    bounds = None if entry.quantization is None else np.iinfo(entry.dtype)
    if bounds is None or (entry.quantization == _PIXELS and bounds.max >= _LARGEST_PIXEL):

        def write(image: NDArray[np.uint8]) -> None:
            into[...] = image

        return write
    assert entry.quantization is not None
    stored = np.rint(np.arange(256) / entry.quantization.scale)
    stored += entry.quantization.zero_point
    table = stored.clip(bounds.min, bounds.max).astype(entry.dtype)
    # Scale 1 and zero point -128, the rule for images, only turns the highest bit over.
    highest = np.array(128, np.uint8)
    if np.array_equal(table.view(np.uint8), np.arange(256, dtype=np.uint8) ^ highest):
        bits, turn = into.view(np.uint8), np.bitwise_xor

        def write_bits(image: NDArray[np.uint8]) -> None:
            turn(image, highest, bits)

        return write_bits

    def look_up(image: NDArray[np.uint8]) -> None:
        # Every index is a uint8 and the table has 256 entries; "clip" spares the check.
        table.take(image, out=into, mode="clip")

    return look_up
