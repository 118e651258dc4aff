"""Images brought to one size, as the SDK does it on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from offramp.bundle import InputSpec

__all__ = ["own_shape", "resize", "stack"]

_LARGEST_SIDE = 96


def own_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """The size to train at when none is asked for.

    The first image's own size if it is small; otherwise it is shrunk, sides in proportion, until
    the longer one is 96 pixels, which is what a processor can train on.
    """
    factor = min(1.0, _LARGEST_SIDE / max(shape))
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resize(images: NDArray[np.uint8], image_shape: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Bring ``(images, height, width, 3)`` uint8 to another height and width."""
    if image_shape is None or images.shape[1:3] == image_shape:
        return images
    from offramp.bundle import InputSpec

    return stack(images, InputSpec(height=image_shape[0], width=image_shape[1]), len(images))


def stack(images: Iterable[object], spec: InputSpec, count: int) -> NDArray[np.uint8]:
    """Decode and resize images one by one into a single array.

    Args:
        images: Whatever ``offramp.images.load_image`` takes.
        spec: The size and how to get there.
        count: How many there are.
    """
    from offramp.images import load_image

    result = np.empty((count, spec.height, spec.width, 3), dtype=np.uint8)
    for slot, image in zip(result, images, strict=True):
        slot[:] = load_image(image, spec)  # type: ignore[arg-type]
    return result
