"""What each of Pillow's modes means as upright 8-bit RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offramp.errors import ImageError
from offramp.images._orientation import exif_orientation

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

__all__ = ["LARGEST_PIXELS", "LARGEST_SIDE", "check_size", "to_rgb"]

LARGEST_PIXELS = 64 * 2**20
"""Larger images are refused before they are decoded: a small file can claim any size."""

LARGEST_SIDE = 65_535
"""The longest that a JPEG can be; up to here the resize rule needs no more than 32 bits."""

# What Pillow converts to RGB in one defined way.
_DIRECT = frozenset({"1", "L", "CMYK", "YCbCr", "HSV", "RGBX"})
_TRANSPARENT = frozenset({"RGBA", "LA", "PA"})
_PREMULTIPLIED = frozenset({"La", "RGBa"})
_SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})


def to_rgb(image: Image, name: str = "the image") -> Image:
    """An upright RGB copy of a PIL image.

    Transparent pixels are laid on black, as an app's premultiplied bitmaps are; samples of 16 bits
    keep the upper 8. Colour profiles are not applied.

    Raises:
        ImageError: The image is too large, empty, or in a mode without one meaning as RGB.
    """
    check_size(image.width, image.height, name)
    rgb = _colours(image, name)
    turn = _turn(image)
    if turn is not None:
        return rgb.transpose(turn)
    return rgb.copy() if rgb is image else rgb


def check_size(width: int, height: int, name: str) -> None:
    """Refuse an image that is empty or larger than anything worth decoding.

    Raises:
        ImageError: It is.
    """
    if width * height > LARGEST_PIXELS or max(width, height) > LARGEST_SIDE:
        raise ImageError(
            f"{name} has {width} x {height} pixels, expected at most {LARGEST_PIXELS} and "
            f"{LARGEST_SIDE} a side; make it smaller first"
        )
    if width < 1 or height < 1:
        raise ImageError(f"{name} has {width} x {height} pixels, expected at least one")


def _colours(image: Image, name: str) -> Image:
    from PIL.Image import fromarray

    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image).astype(np.uint16)
        grey = (values >> 8).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 0
        return fromarray(grey).convert("RGB")
    if image.mode in _PREMULTIPLIED:
        # They lie on black already; dividing by alpha first would lose what rounding has left.
        values = np.asarray(image)
        return fromarray(values[..., 0] if image.mode == "La" else values[..., :3]).convert("RGB")
    if image.mode in _TRANSPARENT or "transparency" in image.info or image.mode == "P":
        layer = np.asarray(image.convert("RGBA")).astype(np.uint16)
        # Never halfway between two whole numbers, so this is the nearest in every language.
        return fromarray(((layer[..., :3] * layer[..., 3:] + 127) // 255).astype(np.uint8))
    if image.mode in _DIRECT:
        return image.convert("RGB")
    raise ImageError(
        f"{name} has the mode {image.mode!r}, which has no one meaning as RGB; "
        "convert it to RGB yourself first"
    )


def _turn(image: Image) -> Transpose | None:
    from PIL.Image import Transpose

    exif = image.info.get("exif")
    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(exif_orientation(exif) if isinstance(exif, bytes) else 1)
