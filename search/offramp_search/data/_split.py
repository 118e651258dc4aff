"""Splits: pure functions of labels and a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.errors import DataError
from offramp_search.data._base import ImageSet, SourceImages, Splits

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Shares", "halve", "split", "take_stratified"]


@final
@dataclass(frozen=True, slots=True)
class Shares:
    """How much of the images each split gets; training gets the rest.

    Attributes:
        search: Share of the images that are not test.
        calibration: Share of the images that are not test.
        test: Share of all images; not used when the source has a test split of its own.
    """

    search: float = 0.1
    calibration: float = 0.2
    test: float = 0.2

    def __post_init__(self) -> None:
        if not (
            min(self.search, self.calibration, self.test) > 0
            and self.search + self.calibration < 1
            and self.test < 1
        ):
            raise DataError(
                f"shares must be positive and leave images to train on, got search "
                f"{self.search}, calibration {self.calibration}, test {self.test}"
            )


def split(images: SourceImages, *, seed: int, shares: Shares | None = None) -> Splits:
    """Split what a source holds into four disjoint sets, each with all classes in proportion.

    Args:
        images: What the source holds; its own test split, if any, becomes the test split.
        seed: Equal seeds split equally.
        shares: Sizes of the splits.

    Raises:
        DataError: There are too few images of a class.
    """
    shares = shares or Shares()
    pool, test = images.train, images.test
    if test is None:
        kept, tested = _divide(pool.labels, (shares.test,), seed, images.labels)
        pool, test = pool.take(kept), pool.take(tested)
    train, search, calibration = _divide(
        pool.labels, (shares.search, shares.calibration), seed + 1, images.labels
    )
    return Splits(
        train=pool.take(train),
        search=pool.take(search),
        calibration=pool.take(calibration),
        test=test,
        labels=images.labels,
    )


def halve(images: ImageSet, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """Two disjoint halves with all classes in proportion."""
    names = tuple(str(label) for label in range(int(images.labels.max(initial=0)) + 1))
    first, second = _divide(images.labels, (0.5,), seed, names)
    return images.take(first), images.take(second)


def take_stratified(images: ImageSet, count: int, *, seed: int) -> ImageSet:
    """At most ``count`` images, every class in proportion, in an order drawn from the seed."""
    if count >= len(images):
        return images
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(images))
    # Each image's rank within its class, as a share: the smallest ones are an even sample.
    rank = np.empty(len(images))
    for label in np.unique(images.labels):
        members = np.flatnonzero(images.labels[order] == label)
        rank[order[members]] = (np.arange(len(members)) + generator.random()) / len(members)
    chosen = np.argsort(rank, kind="stable")[:count]
    return images.take(generator.permutation(chosen))


def _divide(
    labels: NDArray[np.int64], shares: tuple[float, ...], seed: int, names: tuple[str, ...]
) -> list[NDArray[np.int64]]:
    """Positions of the rest and then of each share, class by class."""
    generator = np.random.default_rng(seed)
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(len(shares) + 1)]
    for label, name in enumerate(names):
        members = generator.permutation(np.flatnonzero(labels == label))
        if len(members) <= len(shares):
            raise DataError(
                f"class {name!r} has {len(members)} images, which is too few to split; "
                f"it takes at least {len(shares) + 1}"
            )
        start = 0
        for part, share in zip(parts[1:], shares, strict=True):
            # At least one image of each class everywhere, and at least one left over.
            size = max(1, math.floor(share * len(members)))
            part.append(members[start : start + size])
            start += size
        parts[0].append(members[start:])
    return [generator.permutation(np.concatenate(part)) for part in parts]
