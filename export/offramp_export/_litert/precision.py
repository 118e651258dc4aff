"""The precisions a LiteRT stage may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from offramp.bundle import Quantization

__all__ = ["STATIC", "Activations", "StagePrecision", "edge_dtype"]

StagePrecision = Literal["float32", "float16", "dynamic_int8", "int8", "int16x8"]


@final
@dataclass(frozen=True, slots=True)
class Activations:
    """How a static precision stores what a stage reads, computes and hands on.

    Attributes:
        dtype: Of the edges.
        bits: Of the same.
        smallest: The smallest number that is used.
        largest: The largest.
        image_range: What the image is said to reach, so that a step is one pixel value.
        image: The scale and zero point this gives it: pixels are stored without any rounding.
        headroom: How many times wider a range is made than what calibration saw.
    """

    dtype: Literal["int8", "int16"]
    bits: Literal[8, 16]
    smallest: int
    largest: int
    image_range: tuple[float, float]
    image: Quantization
    headroom: float


STATIC: dict[StagePrecision, Activations] = {
    "int8": Activations(
        dtype="int8",
        bits=8,
        smallest=-128,
        largest=127,
        image_range=(0.0, 255.0),
        image=Quantization(scale=1.0, zero_point=-128),
        headroom=1.0,
    ),
    # Symmetric, as LiteRT's 16-bit kernels demand, and -32768 is left out for it.
    "int16x8": Activations(
        dtype="int16",
        bits=16,
        smallest=-32767,
        largest=32767,
        image_range=(-32767.0, 32767.0),
        image=Quantization(scale=1.0, zero_point=0),
        # One of 16 bits, so that an image brighter than those calibrated on is not cut off.
        headroom=2.0,
    ),
}
"""The precisions whose ranges are fixed when the program is made; the others' edges are float32."""


def edge_dtype(precision: StagePrecision) -> Literal["float32", "int8", "int16"]:
    """Of what a stage of this precision hands on."""
    return STATIC[precision].dtype if precision in STATIC else "float32"
