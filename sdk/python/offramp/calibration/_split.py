"""Which images build the path and which certify it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offramp.calibration._betting import minimum_samples
from offramp.calibration._inputs import check_fraction
from offramp.errors import TooFewImagesError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FIT_FRACTION", "split_images"]

FIT_FRACTION = 0.3
"""Share of the images for temperatures and the path, unless another is asked for."""


def split_images(
    images: int,
    *,
    limit: float,
    confidence: float,
    fit_fraction: float = FIT_FRACTION,
    seed: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Part the images, or say that there are too few; needs no logits, so it can be asked first.

    Args:
        images: How many there are.
        limit: As in ``calibrate``.
        confidence: As in ``calibrate``.
        fit_fraction: As in ``calibrate``.
        seed: As in ``calibrate``.

    Returns:
        Indices to fit on, and indices to certify on in the order of the test.

    Raises:
        CalibrationError: An argument is out of range.
        TooFewImagesError: So few images cannot certify the limit, whatever the network does.
    """
    check_fraction("fit_fraction", fit_fraction)
    certifying = max(0, images - _fitting(images, fit_fraction))
    needed = minimum_samples(limit, confidence)
    if certifying < needed:
        enough = needed
        while enough - _fitting(enough, fit_fraction) < needed:
            enough += 1
        raise TooFewImagesError(
            f"got {images} images, which leaves {certifying} for the certificate; a drop of at "
            f"most {limit:.3%} at {confidence:.1%} confidence takes at least {needed} ({enough} "
            "images in all): give more images or "
            "raise the limit",
            got=certifying,
            needed=needed,
        )
    order = np.random.default_rng(seed).permutation(images)
    return order[: images - certifying], order[images - certifying :]


def _fitting(images: int, fit_fraction: float) -> int:
    return max(1, round(images * fit_fraction))
