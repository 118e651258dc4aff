"""From a file, bytes or a PIL image to upright 8-bit RGB."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from offramp.errors import ImageError

if TYPE_CHECKING:
    import os
    from typing import IO

__all__ = ["FORMATS", "LARGEST_PIXELS", "open_rgb", "to_rgb"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""What is decoded; Pillow's many other decoders are never reached."""

LARGEST_PIXELS = 64 * 2**20
"""Larger images are refused before they are decoded: a small file can claim any size."""

# What Pillow converts to RGB without losing anything that the eye would see.
_DIRECT = frozenset({"1", "L", "CMYK", "YCbCr", "HSV", "RGBX"})
_TRANSPARENT = frozenset({"RGBA", "LA", "La", "PA", "RGBa"})
_SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})


def open_rgb(image: str | os.PathLike[str] | bytes) -> Image.Image:
    """Decode an image file, turned as its EXIF orientation says.

    Args:
        image: The path of a file, or a file's content. Of several frames the first is taken.

    Raises:
        ImageError: No such file, not one of the formats, damaged, or too large.
    """
    if isinstance(image, bytes):
        return _decode(io.BytesIO(image), f"the {len(image)} bytes given")
    path = Path(image)
    try:
        with path.open("rb") as file:
            return _decode(file, str(path))
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error


def _decode(file: IO[bytes], name: str) -> Image.Image:
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_size(image.size, name)
            return to_rgb(image, name)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is no image; expected {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is too large: {error}") from error
    # Decoders raise these for damaged files; a truncated file is an OSError.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} is damaged: {error}") from error


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """An upright RGB copy of a PIL image.

    Transparent pixels are laid on black, as an app's premultiplied bitmaps are; 16-bit grey is
    scaled to 8 bits.

    Raises:
        ImageError: The image is too large, empty, or in a mode without one meaning as RGB.
    """
    _check_size(image.size, name)
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright
    if upright.mode in _SIXTEEN_BITS:
        values = np.asarray(upright).astype(np.float64)
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if upright.mode in _TRANSPARENT or "transparency" in upright.info or upright.mode == "P":
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert(
            "RGB"
        )
    if upright.mode in _DIRECT:
        return upright.convert("RGB")
    raise ImageError(
        f"{name} has the mode {upright.mode!r}, which has no one meaning as RGB; "
        "convert it to RGB yourself first"
    )


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > LARGEST_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels, expected at most {LARGEST_PIXELS}; "
            "make it smaller first"
        )
    if width < 1 or height < 1:
        raise ImageError(f"{name} has {width} x {height} pixels, expected at least one")
