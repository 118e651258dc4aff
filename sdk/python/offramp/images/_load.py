"""From whatever the user has to what stage 0 reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.errors import ImageError
from offramp.images._decode import LARGEST_PIXELS, open_rgb, to_rgb
from offramp.images._geometry import check_rotation, region_box
from offramp.images._resize import resize

if TYPE_CHECKING:
    from offramp.bundle import InputSpec
    from offramp.images._geometry import Region

__all__ = ["ImageLike", "load_image"]

ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path, a file's content, a PIL image, or an ``(H, W, 3)`` uint8 array in RGB order."""

# Pillow counts turns against the clock.
_TURNS = (None, Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_90)


def load_image(
    image: ImageLike,
    spec: InputSpec,
    *,
    region: Region | None = None,
    rotation_degrees: int = 0,
) -> NDArray[np.uint8]:
    """An image as the input of stage 0.

    The image is turned upright as its EXIF orientation says, the region is cut out of it, the
    region is turned, and what is left is brought to the input's size by the bundle's resize rule.

    Args:
        image: A path, a file's content, a PIL image, or an ``(H, W, 3)`` uint8 array in RGB
            order. An array has no orientation; all of them are resized by the same rule.
        spec: The input of the bundle.
        region: ``(left, top, right, bottom)`` of the part to look at, as fractions of the upright
            image's width and height; edges are rounded to whole pixels. ``None`` is all of it.
        rotation_degrees: A multiple of 90: how far to turn the region clockwise. For a camera
            whose pictures lie on their side.

    Returns:
        ``(spec.height, spec.width, 3)`` uint8, RGB; the very array given, or a view of it, if it
        already fits.

    Raises:
        ImageError: The image cannot be decoded, or the array is no 8-bit RGB image.
        ValueError: The region is empty or reaches beyond the image, or the rotation is no
            multiple of 90.
    """
    turns = check_rotation(rotation_degrees)
    if isinstance(image, np.ndarray):
        return _from_array(image, spec, region, turns)
    if isinstance(image, Image.Image):
        picture = to_rgb(image)
    elif isinstance(image, str | os.PathLike | bytes):
        picture = open_rgb(image)
    else:
        raise ImageError(
            f"an image is a path, bytes, a PIL image or an (H, W, 3) uint8 array, "
            f"got {type(image).__name__}"
        )
    if region is not None:
        picture = picture.crop(region_box(*picture.size, region))
    turn = _TURNS[turns]
    if turn is not None:
        picture = picture.transpose(turn)
    return np.asarray(resize(picture, spec))


def _from_array(
    array: NDArray[np.uint8], spec: InputSpec, region: Region | None, turns: int
) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        hint = "; scale it to 0..255 and convert it with astype(np.uint8)"
        raise ImageError(
            f"the image array is {array.dtype} {array.shape}, expected uint8 (H, W, 3) in RGB order"
            f"{hint if array.dtype.kind == 'f' else ''}"
        )
    if array.size == 0:
        raise ImageError(
            f"the image array has {array.shape[1]} x {array.shape[0]} pixels, "
            f"expected 1 to {LARGEST_PIXELS}"
        )
    if region is not None:
        left, top, right, bottom = region_box(array.shape[1], array.shape[0], region)
        array = array[top:bottom, left:right]
    if turns:
        array = np.rot90(array, -turns)
    if array.shape[:2] == (spec.height, spec.width):
        return array
    if array.shape[0] * array.shape[1] > LARGEST_PIXELS:
        raise ImageError(
            f"the image array has {array.shape[1]} x {array.shape[0]} pixels, "
            f"expected 1 to {LARGEST_PIXELS}"
        )
    return np.asarray(resize(Image.fromarray(np.ascontiguousarray(array)), spec))
