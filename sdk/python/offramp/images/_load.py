"""From whatever the user has to what stage 0 reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.errors import ImageError
from offramp.images._decode import LARGEST_PIXELS, open_rgb, to_rgb
from offramp.images._resize import resize

if TYPE_CHECKING:
    from offramp.bundle import InputSpec

__all__ = ["ImageLike", "load_image"]

ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path, a file's content, a PIL image, or an ``(H, W, 3)`` uint8 array in RGB order."""


def load_image(image: ImageLike, spec: InputSpec) -> NDArray[np.uint8]:
    """An image as the input of stage 0.

    Args:
        image: A path, a file's content, a PIL image, or an ``(H, W, 3)`` uint8 array in RGB
            order. An array has no orientation; all of them are resized by the same rule.
        spec: The input of the bundle.

    Returns:
        ``(spec.height, spec.width, 3)`` uint8, RGB; the very array given if it already fits.

    Raises:
        ImageError: The image cannot be decoded, or the array is no 8-bit RGB image.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, spec)
    if isinstance(image, Image.Image):
        picture = to_rgb(image)
    elif isinstance(image, str | os.PathLike | bytes):
        picture = open_rgb(image)
    else:
        raise ImageError(
            f"an image is a path, bytes, a PIL image or an (H, W, 3) uint8 array, "
            f"got {type(image).__name__}"
        )
    return np.asarray(resize(picture, spec))


def _from_array(array: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        hint = "; scale it to 0..255 and convert it with astype(np.uint8)"
        raise ImageError(
            f"the image array is {array.dtype} {array.shape}, expected uint8 (H, W, 3) in RGB order"
            f"{hint if array.dtype.kind == 'f' else ''}"
        )
    if array.shape[:2] == (spec.height, spec.width):
        return array
    if array.size == 0 or array.shape[0] * array.shape[1] > LARGEST_PIXELS:
        raise ImageError(
            f"the image array has {array.shape[1]} x {array.shape[0]} pixels, "
            f"expected 1 to {LARGEST_PIXELS}"
        )
    return np.asarray(resize(Image.fromarray(np.ascontiguousarray(array)), spec))
