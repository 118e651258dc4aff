"""The resize rule of the manifest: which part of an image is taken, and how it is scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from offramp.bundle import InputSpec

__all__ = ["crop_box", "resize"]

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


def crop_box(width: int, height: int, spec: InputSpec) -> tuple[int, int, int, int]:
    """The part of an image that the input shows.

    For ``cover`` it is the largest part of the input's proportions, from the middle, in whole
    pixels: its longer-than-needed side is ``height * spec.width / spec.height`` (or the same with
    the sides exchanged), halves rounded up, and the odd pixel is left over at the right or bottom.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        spec: The input.

    Returns:
        ``(left, top, right, bottom)``, in pixels, right and bottom exclusive.
    """
    left, top, right, bottom = 0, 0, width, height
    if spec.resize == "cover":
        if width * spec.height > height * spec.width:
            kept = max(1, (2 * height * spec.width + spec.height) // (2 * spec.height))
            left = (width - kept) // 2
            right = left + kept
        else:
            kept = max(1, (2 * width * spec.height + spec.width) // (2 * spec.width))
            top = (height - kept) // 2
            bottom = top + kept
    return left, top, right, bottom


def resize(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Cut and scale an RGB image to the input's size.

    The part is cut out first, so that no pixel outside of it is ever mixed in.
    """
    size = (spec.width, spec.height)
    if image.size == size:
        return image
    box = crop_box(image.width, image.height, spec)
    part = image if box == (0, 0, *image.size) else image.crop(box)
    return part if part.size == size else part.resize(size, _FILTERS[spec.filter])
