"""The test: has the mean of a bounded quantity been shown to stay below a limit?

One bets against the claim "the mean drop is above the limit" on one image after the other. If the
claim were true, no betting could be expected to earn, and by Ville's inequality the wealth would
reach ``1 / (1 - confidence)`` with probability at most ``1 - confidence``. So when it does reach
it, the claim is refuted at that confidence (Waudby-Smith and Ramdas 2024, arXiv 2010.09686, the
predictable plug-in bets of section 4).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from offramp.calibration._binomial import smallest_enough
from offramp.calibration._inputs import check_fraction

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Values = NDArray[np.int64] | NDArray[np.float64]

__all__ = ["certifies", "log_wealth", "minimum_samples", "smallest_limit"]

# The variance believed in before the first image.
_FIRST_VARIANCE = 0.05
# No bet may lose more than this share of the wealth on one image.
_LARGEST_LOSS = 0.75
_BISECTIONS = 50


def log_wealth(values: ArrayLike, limit: float, confidence: float) -> NDArray[np.float64]:
    """The logarithm of the wealth after each image, starting from a wealth of one.

    The bet on image j is ``min(sqrt(2 ln(1/δ) / (n v)), 0.75 / (1 - limit))``, where ``v`` is the
    variance of the images before j, so that the wealth never falls below a quarter in one step.

    Args:
        values: ``(..., images)``, each at most 1, in an order fixed beforehand.
        limit: The mean to be refuted from above, between -1 and 1.
        confidence: ``1 - δ``.

    Returns:
        ``(..., images)`` float64.
    """
    seen = np.asarray(values, dtype=np.float64)
    images = seen.shape[-1]
    steps = np.arange(1, images + 1)
    means = np.cumsum(seen, axis=-1) / (steps + 1)
    deviations = (seen - means) ** 2
    variances = (_FIRST_VARIANCE + np.cumsum(deviations, axis=-1)) / (steps + 1)
    # What is known before image j is what was seen up to image j - 1.
    variances = np.concatenate(
        [np.full((*seen.shape[:-1], 1), _FIRST_VARIANCE), variances[..., :-1]], axis=-1
    )
    bets = np.minimum(
        np.sqrt(-2.0 * math.log(1.0 - confidence) / (images * variances)),
        _LARGEST_LOSS / (1.0 - limit),
    )
    result: NDArray[np.float64] = np.cumsum(np.log1p(-bets * (seen - limit)), axis=-1)
    return result


def certifies(values: Values, limit: float, confidence: float) -> bool:
    """Whether the images show a mean of at most ``limit``.

    They do if the wealth reached its goal at any image and their own mean is within the limit.
    The second condition is not needed for the confidence: a wealth won on the first images counts
    whatever follows. It keeps out a promise that its own images contradict.

    Args:
        values: ``(images,)``, each at most 1, in an order fixed beforehand.
        limit: The largest mean allowed, between -1 and 1.
        confidence: The probability with which a larger mean would not be certified.
    """
    if values.size == 0 or values.mean() > limit:
        return False
    return bool(log_wealth(values, limit, confidence).max() >= -math.log(1.0 - confidence))


def smallest_limit(values: Values, limit: float, confidence: float) -> float:
    """The smallest limit that the images certify, given that they certify ``limit``.

    A larger limit raises the wealth after every image, so the certified limits are an interval
    and bisection finds its lower end. A negative value is a gain.

    Args:
        values: As for ``certifies``.
        limit: A limit that is certified.
        confidence: As for ``certifies``.

    Returns:
        A certified limit, at most 1e-14 above the smallest.
    """
    refused, certified = -1.0, limit
    for _ in range(_BISECTIONS):
        middle = (refused + certified) / 2.0
        if certifies(values, middle, confidence):
            certified = middle
        else:
            refused = middle
    return certified


def minimum_samples(limit: float, confidence: float) -> int:
    """How many certification images a promise takes if not one of them is answered differently.

    With fewer images nothing that costs or gains no accuracy on them can be certified; each image
    that early exit gets wrong and the reference right asks for more. For 1 % at 95 % it is 398.

    Args:
        limit: The largest drop of accuracy, a fraction, above 0 and below 1.
        confidence: Above 0 and below 1.

    Raises:
        CalibrationError: An argument is out of range.
    """
    check_fraction("limit", limit)
    check_fraction("confidence", confidence)
    return smallest_enough(lambda images: _no_drop_certifies(images, limit, confidence))


def _no_drop_certifies(images: int, limit: float, confidence: float) -> bool:
    return certifies(np.zeros(images, dtype=np.int64), limit, confidence)
