"""Which colour had the image here?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch.nn import functional

from offramp.errors import DataError
from offramp_search.objectives._base import Examples, Objective

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Colorization"]

_BIN = 10.0
_RGB_STEP = 3


@final
@dataclass(frozen=True, slots=True)
class Colorization(Objective):
    """Tell the colours of an image from its lightness (Zhang et al. 2016, arXiv 1603.08511).

    The network is shown the L channel of Lab as a grey image. Each exit has a classifier of one
    pixel (a 1×1 convolution, which commutes with the bilinear enlargement of its map), and answers
    for every cell of the image with one of the bins of side 10 in the ab plane that sRGB reaches.
    The bins are computed, 261 of them; the 313 of the published file include some that no sRGB
    colour comes near. Colours are not rebalanced, as in arXiv 2003.12056.

    Attributes:
        image_shape: Height and width.
        cell: Side of a cell in pixels, whose mean colour is asked for. The paper asks for every
            pixel; with 4 it is a sixteenth of the work.

    Raises:
        DataError: The cell does not fit the images.
    """

    image_shape: tuple[int, int]
    cell: int = 4

    def __post_init__(self) -> None:
        if self.cell < 1 or any(side % self.cell for side in self.image_shape):
            raise DataError(
                f"cells of {self.cell} pixels do not fill images of "
                f"{self.image_shape[0]}×{self.image_shape[1]}; give a divisor of both sides, or "
                "another --image-size"
            )

    @property
    def name(self) -> str:
        """``colorization``."""
        return "colorization"

    @property
    def classes(self) -> int:
        """The bins there are."""
        return len(_bins())

    @property
    def reads_maps(self) -> bool:
        """Yes: each pixel of them."""
        return True

    def transform(
        self, images: NDArray[np.float32], generator: np.random.Generator, *, train: bool
    ) -> Examples:
        """The lightness of the images, and the bin of every cell, row by row; nothing is drawn."""
        lab = _lab(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2) / 255)
        grey = (lab[:, :1] * 2.55).expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
        colours = functional.avg_pool2d(lab[:, 1:], self.cell).permute(0, 2, 3, 1).reshape(-1, 2)
        labels = torch.cdist(colours, torch.from_numpy(_bins())).argmin(1)
        return Examples(grey.contiguous().numpy(), labels.numpy())

    def width(self, channels: int) -> int:
        """As many as there are channels."""
        return channels

    def arrange(self, read: Tensor) -> Tensor:
        """The map, enlarged to one pixel for each cell."""
        size = (self.image_shape[0] // self.cell, self.image_shape[1] // self.cell)
        maps = functional.interpolate(read, size=size, mode="bilinear", align_corners=False)
        return maps.permute(0, 2, 3, 1).reshape(-1, read.shape[1])


def _lab(images: Tensor) -> Tensor:
    """``(images, 3, height, width)`` RGB of 0 to 1 -> L of 0 to 100, a and b."""
    from kornia.color import rgb_to_lab

    result: Tensor = rgb_to_lab(images)
    return result


@cache
def _bins() -> NDArray[np.float32]:
    """``(bins, 2)``: the centres of the bins that a lattice of sRGB colours falls into."""
    steps = torch.arange(0, 256, _RGB_STEP, dtype=torch.float32) / 255
    colours = torch.cartesian_prod(steps, steps, steps)
    lab = _lab(colours.T.reshape(1, 3, -1, 1))[0, 1:, :, 0].T
    cells = torch.unique(torch.round(lab / _BIN).int(), dim=0)
    result: NDArray[np.float32] = (cells.float() * _BIN).numpy()
    return result
