"""The resize rule of the manifest, applied to an RGB image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from offramp.images._geometry import crop_box

if TYPE_CHECKING:
    from offramp.bundle import InputSpec

__all__ = ["resize"]

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


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
