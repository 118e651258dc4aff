"""From whatever the user has to what stage 0 reads."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import numpy as np

from offramp.errors import ImageError
from offramp.images._convert import check_size, to_rgb
from offramp.images._decode import open_rgb
from offramp.images._geometry import check_rotation, region_box
from offramp.images._resize import resize_array, resize_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from offramp.bundle import InputSpec
    from offramp.images._geometry import Region

__all__ = ["ImageLike", "load_image"]

_UINT8 = np.dtype(np.uint8)

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]"
"""A path, a file's content, a PIL image, or an ``(H, W, 3)`` uint8 array in RGB order."""


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
    Arrays need no Pillow.

    Args:
        image: A path, a file's content, a PIL image, or an ``(H, W, 3)`` uint8 array in RGB
            order. An array has no orientation; all of them are resized by the same rule.
        spec: The input of the bundle.
        region: ``(left, top, right, bottom)`` of the part to look at, as fractions of the upright
            image's width and height; edges are rounded to whole pixels. ``None`` is all of it.
        rotation_degrees: A multiple of 90: how far to turn the region clockwise. For a camera
            whose pictures lie on their side.

    Returns:
        ``(spec.height, spec.width, 3)`` uint8, RGB; the very array given, or a view of it, if no
        pixel has to be computed.

    Raises:
        ImageError: The image cannot be decoded, or the array is no 8-bit RGB image.
        ValueError: The region is empty or reaches beyond the image, or the rotation is no
            multiple of 90.
    """
    if (
        type(image) is np.ndarray
        and image.shape == (spec.height, spec.width, 3)
        and image.dtype == _UINT8
        and region is None
        and not rotation_degrees
    ):
        return image  # a stream of frames at the right size waits for nothing
    turns = check_rotation(rotation_degrees)
    if isinstance(image, np.ndarray):
        return _from_array(image, spec, region, turns)
    if _is_picture(image):
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
    if turns:
        picture = picture.transpose(_clockwise(turns))
    return np.asarray(resize_picture(picture, spec))


def _is_picture(image: object) -> TypeGuard[Image.Image]:
    # Whoever has a PIL image has imported Pillow; the others need not wait for it.
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _clockwise(turns: int) -> Image.Transpose:
    from PIL.Image import Transpose

    # Pillow counts against the clock.
    return (Transpose.ROTATE_270, Transpose.ROTATE_180, Transpose.ROTATE_90)[turns - 1]


def _from_array(
    array: NDArray[np.uint8], spec: InputSpec, region: Region | None, turns: int
) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        hint = "; scale it to 0..255 and convert it with astype(np.uint8)"
        raise ImageError(
            f"the image array is {array.dtype} {array.shape}, expected uint8 (H, W, 3) in RGB order"
            f"{hint if array.dtype.kind == 'f' else ''}"
        )
    check_size(array.shape[1], array.shape[0], "the image array")
    if region is not None:
        left, top, right, bottom = region_box(array.shape[1], array.shape[0], region)
        array = array[top:bottom, left:right]
    if turns:
        array = np.rot90(array, -turns)
    return resize_array(array, spec)
