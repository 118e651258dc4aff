"""Images with labels, and the interface of where they come from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.errors import DataError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ImageSet", "Source", "SourceImages", "Splits"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Labelled images of one size, in memory.

    Attributes:
        images: ``(images, height, width, 3)`` uint8, RGB.
        labels: ``(images,)`` int64, the index of the class.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[-1] != 3 or self.images.dtype != np.uint8:
            raise ShapeError(
                f"expected (images, height, width, 3) uint8, "
                f"got {self.images.shape} {self.images.dtype}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            raise ShapeError(
                f"expected {self.images.shape[:1]} int64 labels, "
                f"got {self.labels.shape} {self.labels.dtype}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.images.shape[1], self.images.shape[2]

    @property
    def sha256(self) -> str:
        """Fingerprint of shape, pixels and labels, in their order."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()

    def take(self, indices: NDArray[np.integer]) -> ImageSet:
        """The images at the given positions, copied."""
        return ImageSet(self.images[indices], self.labels[indices])


@final
@dataclass(frozen=True, slots=True, eq=False)
class SourceImages:
    """What a source holds, before Offramp splits it.

    Attributes:
        train: The images a network may learn from.
        test: The source's own test split, if it has one.
        labels: Names of the classes.
    """

    train: ImageSet
    test: ImageSet | None
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise DataError(f"a classifier needs at least two classes, got {list(self.labels)}")
        for part in (self.train, self.test):
            if part is not None and not (
                part.labels.min(initial=0) >= 0 and part.labels.max(initial=0) < len(self.labels)
            ):
                raise DataError(
                    f"labels must lie between 0 and {len(self.labels) - 1}, "
                    f"got {part.labels.min()} to {part.labels.max()}"
                )


@final
@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """Four disjoint sets of images.

    Attributes:
        train: What weights are learnt from.
        search: What architectures are compared on.
        calibration: What thresholds are chosen and certified on.
        test: Read once, at the end.
        labels: Names of the classes.
    """

    train: ImageSet
    search: ImageSet
    calibration: ImageSet
    test: ImageSet
    labels: tuple[str, ...]

    def for_pretrained(self, *, seed: int) -> Splits:
        """Splits for a network that has already seen every training image.

        On such images it is surer than on new ones, so thresholds cannot be chosen there:
        calibration becomes one half of the test split and test the other, half of each class.
        """
        from offramp_search.data._split import halve

        calibration, test = halve(self.test, seed=seed)
        return replace(self, calibration=calibration, test=test)


class Source(ABC):
    """Somewhere labelled images come from.

    Implementations are frozen dataclasses whose fields are exactly the legal options.
    """

    @abstractmethod
    def read(self, image_shape: tuple[int, int] | None) -> SourceImages:
        """Read everything there is.

        Args:
            image_shape: Height and width to bring the images to; ``None`` keeps the size they
                have.

        Raises:
            DataError: There is nothing to read, or it is not what it should be.
        """
