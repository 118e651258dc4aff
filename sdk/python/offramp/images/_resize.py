"""The resize rule of the manifest: cut, then scaled; with Pillow where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

import numpy as np

from offramp.images._geometry import crop_box
from offramp.images._resample import resample

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from offramp.bundle import InputSpec

__all__ = ["resize_array", "resize_picture"]


def resize_array(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Cut and scale an RGB array to the input's size.

    Pillow does it several times faster than numpy, to the same bit.

    Args:
        pixels: ``(rows, columns, 3)`` uint8.
        spec: The input.

    Returns:
        ``(spec.height, spec.width, 3)`` uint8; the very array given, or a view of it, if no pixel
        has to be computed.
    """
    rows, columns = pixels.shape[:2]
    left, top, right, bottom = crop_box(columns, rows, spec)
    part = pixels[top:bottom, left:right]
    if part.shape[:2] == (spec.height, spec.width):
        return pixels if part.shape == pixels.shape else part
    if not _has_pillow():
        return resample(part, spec.width, spec.height, spec.filter)
    from PIL import Image

    return np.asarray(_scale(Image.fromarray(np.ascontiguousarray(part)), spec))


def resize_picture(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Cut and scale an RGB image to the input's size.

    The part is cut out first, so that no pixel outside of it is ever mixed in.
    """
    box = crop_box(image.width, image.height, spec)
    part = image if box == (0, 0, *image.size) else image.crop(box)
    return _scale(part, spec)


def _scale(image: Image.Image, spec: InputSpec) -> Image.Image:
    from PIL.Image import Resampling

    kernel = Resampling[spec.filter.upper()]
    if kernel is Resampling.NEAREST:
        return image.resize((spec.width, spec.height), kernel)
    # Two calls, because Pillow chooses the order of its passes by the sizes since version 13, and
    # each pass rounds to whole pixels.
    across = image.resize((spec.width, image.height), kernel)
    return across.resize((spec.width, spec.height), kernel)


def _has_pillow() -> bool:
    return "PIL" in sys.modules or importlib.util.find_spec("PIL") is not None
