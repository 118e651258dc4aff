"""Which images build the path, which certify it, and whether there are enough of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.calibration._betting import minimum_samples
from offramp.calibration._binomial import fewest_samples, smallest_enough
from offramp.calibration._inputs import check_fraction
from offramp.errors import TooFewImagesError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp.calibration._promises import Promises

__all__ = ["FIT_FRACTION", "Parts", "images_needed", "split_images"]

FIT_FRACTION = 0.3
"""Share of the images for temperatures and the path, unless another is asked for."""
# Of the images that are not fitted on, if answers are to be withheld as well.
_ABSTENTION_FRACTION = 0.4


@final
@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Disjoint sets of images, in the order of the tests on them.

    Attributes:
        fit: ``(n,)`` int64, for temperatures and everything that is fixed beforehand.
        certify: ``(n,)`` int64, for the walk along the candidates.
        abstention: ``(n,)`` int64, for the signal to abstain below; empty if nothing is withheld.
    """

    fit: NDArray[np.int64]
    certify: NDArray[np.int64]
    abstention: NDArray[np.int64]


def split_images(
    images: int,
    promises: Promises,
    *,
    classes: int | None = None,
    measured: bool = False,
    fit_fraction: float = FIT_FRACTION,
    seed: int = 0,
) -> Parts:
    """Part the images, or say that there are too few; needs no logits, so it can be asked first.

    Args:
        images: How many there are.
        promises: As in ``calibrate``.
        classes: How many classes there are, if a promise is made for each.
        measured: Whether latencies are samples, and not exact.
        fit_fraction: As in ``calibrate``.
        seed: As in ``calibrate``.

    Raises:
        CalibrationError: An argument is out of range.
        TooFewImagesError: So few images cannot certify the limits, whatever the network does.
    """
    check_fraction("fit_fraction", fit_fraction)
    walk, abstention = _each_needs(promises, classes, measured)
    sizes = _sizes(images, promises, fit_fraction)
    if sizes[1] < walk or sizes[2] < abstention:
        needed = images_needed(
            promises, classes=classes, measured=measured, fit_fraction=fit_fraction
        )
        parts = f"{sizes[1]} for the certificate"
        least = f"{walk}"
        if promises.selective_error is not None:
            parts += f" and {sizes[2]} for the signal to abstain below"
            least += f" and {abstention}"
        raise TooFewImagesError(
            f"got {images} images, which leaves {parts}; {_wish(promises)} at "
            f"{promises.confidence:.1%} confidence takes at least {least} ({needed} images in "
            "all): give more images or raise the limit",
            got=sizes[1],
            needed=walk,
        )
    order = np.random.default_rng(seed).permutation(images)
    fit, certify, abstain = np.split(order, [sizes[0], sizes[0] + sizes[1]])
    return Parts(fit, certify, abstain)


def images_needed(
    promises: Promises,
    *,
    classes: int | None = None,
    measured: bool = False,
    fit_fraction: float = FIT_FRACTION,
) -> int:
    """How many images it takes in all if early exit changes not one answer.

    Fewer certify nothing. Images that are answered differently ask for more, and so does a mean
    latency close to what the network takes.

    Args:
        promises: As in ``calibrate``.
        classes: As in ``split_images``.
        measured: As in ``split_images``.
        fit_fraction: As in ``calibrate``.
    """
    check_fraction("fit_fraction", fit_fraction)
    walk, abstention = _each_needs(promises, classes, measured)

    def enough(images: int) -> bool:
        _, certifying, abstaining = _sizes(images, promises, fit_fraction)
        return certifying >= walk and abstaining >= abstention

    found = smallest_enough(enough)
    # Rounding to whole images is not monotone by one: step back as far as it stays enough.
    while found > 1 and enough(found - 1):
        found -= 1
    return found


def _sizes(images: int, promises: Promises, fit_fraction: float) -> tuple[int, int, int]:
    fitting = min(images, max(1, round(images * fit_fraction)))
    rest = images - fitting
    abstaining = 0
    if promises.selective_error is not None:
        abstaining = round(rest * _ABSTENTION_FRACTION)
    return fitting, rest - abstaining, abstaining


def _each_needs(promises: Promises, classes: int | None, measured: bool) -> tuple[int, int]:
    levels = promises.levels(measured=measured)
    needs = [1]
    for limit in (promises.accuracy_drop, promises.early_exit_drop):
        if limit is not None:
            needs.append(minimum_samples(limit, levels.walk))
    if promises.class_drop is not None:
        needs.append((classes or 1) * minimum_samples(promises.class_drop, levels.walk))
    if promises.disagreement is not None:
        needs.append(fewest_samples(promises.disagreement, levels.walk))
    abstention = 0
    if promises.selective_error is not None:
        abstention = fewest_samples(promises.selective_error, levels.abstention)
    return max(needs), abstention


def _wish(promises: Promises) -> str:
    wishes = []
    for name in promises.limited:
        value = getattr(promises, name)
        amount = f"{value:.4g} ms" if name.endswith("_ms") else f"{value:.3%}"
        wishes.append(f"{name} of at most {amount}")
    return " and ".join(wishes)
