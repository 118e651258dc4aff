"""The images that targets with static ranges are calibrated on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offramp.errors import ExportError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["choose_calibration_images"]

_FEWEST = 20
_MOST = 300
_SHUFFLE_SEED = 0


def choose_calibration_images(target: str, images: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Up to 300 of the images, in an order that depends on their number alone.

    Args:
        target: ``runtime/precision``, for the message.
        images: ``(images, height, width, 3)`` uint8.

    Raises:
        ExportError: There are fewer than 20.
    """
    count = 0 if images is None else len(images)
    if images is None or count < _FEWEST:
        raise ExportError(
            f"{target} was given {count} calibration images; pass calibration_images with at "
            f"least {_FEWEST}, better 100 to {_MOST}, taken from the training data"
        )
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(count)
    return images[order[:_MOST]]
