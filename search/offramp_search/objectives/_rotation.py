"""By which quarter turn was the image rotated?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.errors import DataError
from offramp_search.objectives._base import Examples, Objective

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Rotation"]

_TURNS = 4


@final
@dataclass(frozen=True, slots=True)
class Rotation(Objective):
    """Tell the four quarter turns of an image apart (Gidaris et al. 2018, arXiv 1803.07728).

    Each image is shown in all four, so a step costs four times the work.

    Attributes:
        image_shape: Height and width, which must be equal.

    Raises:
        DataError: The images are not square.
    """

    image_shape: tuple[int, int]

    def __post_init__(self) -> None:
        if self.image_shape[0] != self.image_shape[1]:
            raise DataError(
                f"rotation needs square images, got {self.image_shape[0]}×{self.image_shape[1]}; "
                "bring them to one side with --image-size, or choose another objective"
            )

    @property
    def name(self) -> str:
        """``rotation``."""
        return "rotation"

    @property
    def classes(self) -> int:
        """Four."""
        return _TURNS

    @property
    def reads_maps(self) -> bool:
        """No: the pooled features."""
        return False

    def transform(
        self, images: NDArray[np.float32], generator: np.random.Generator, *, train: bool
    ) -> Examples:
        """All images unturned, then all turned by 90 degrees, and so on; nothing is drawn."""
        turned = [np.rot90(images, turn, axes=(1, 2)) for turn in range(_TURNS)]
        labels = np.repeat(np.arange(_TURNS, dtype=np.int64), len(images))
        return Examples(np.ascontiguousarray(np.concatenate(turned), dtype=np.float32), labels)

    def width(self, channels: int) -> int:
        """As many as there are channels."""
        return channels

    def arrange(self, read: Tensor) -> Tensor:
        """As it is."""
        return read
