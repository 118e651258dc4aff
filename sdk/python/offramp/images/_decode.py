"""From a file, bytes or a PIL image to upright 8-bit RGB."""

from __future__ import annotations

import importlib
import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.errors import ImageError
from offramp.images._convert import to_rgb

if TYPE_CHECKING:
    import os
    from typing import IO, Any

    from PIL.Image import Image

__all__ = ["FORMATS", "open_rgb"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""What is decoded; Pillow's many other decoders are never reached."""


def open_rgb(image: str | os.PathLike[str] | bytes) -> Image:
    """Decode an image file, turned as its EXIF orientation says.

    Args:
        image: The path of a file, or a file's content. Of an animation the first frame is taken,
            of a file of several photos (MPO, a gain map, a depth map) the first photo.

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


def _decode(file: IO[bytes], name: str) -> Image:
    reader = _reader(file.read(16))
    if reader is None:
        raise ImageError(f"{name} is no image; expected {', '.join(FORMATS)}")
    file.seek(0)
    from PIL.Image import DecompressionBombError, DecompressionBombWarning

    try:
        with reader(file) as image:
            rgb: Image = to_rgb(image, name)
            return rgb
    except (DecompressionBombError, DecompressionBombWarning) as error:
        raise ImageError(f"{name} is too large: {error}") from error
    # Decoders raise these for damaged files; a truncated file is an OSError.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} is damaged: {error}") from error


def _reader(start: bytes) -> Any:
    """Pillow's class for a file that starts like this.

    ``Image.open`` would choose the same, and then read a JPEG's index of further photos, of which
    none is wanted, and warn of sizes that are refused here anyway.
    """
    if start.startswith(b"\xff\xd8\xff"):
        plugin, name = "Jpeg", "JpegImageFile"
    elif start.startswith(b"\x89PNG\r\n\x1a\n"):
        plugin, name = "Png", "PngImageFile"
    elif start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        plugin, name = "WebP", "WebPImageFile"
    elif start.startswith(b"BM"):
        plugin, name = "Bmp", "BmpImageFile"
    else:
        return None
    return getattr(importlib.import_module(f"PIL.{plugin}ImagePlugin"), name)
