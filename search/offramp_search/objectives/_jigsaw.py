"""In which order were the tiles of the image?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.errors import DataError
from offramp_search.objectives._base import Examples, Objective

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Jigsaw"]

_TILE_SHARE = 0.76
_GREY_SHARE = 0.3
_MOST_PERMUTATIONS = 1_000
_CANDIDATES = 20_000
# Where normalised tiles are put on the scale of images: about the mean and spread of photographs,
# so that a network's own normalisation brings them to zero and one.
_MEAN, _SPREAD = 115.0, 58.0
_LEAST_SPREAD = 1.0


@final
@dataclass(frozen=True, slots=True)
class Jigsaw(Objective):
    """Tell the order of an image's shuffled tiles (Noroozi and Favaro 2016, arXiv 1603.09246).

    As in the released configuration of arXiv 2003.12056: a tile is cut at a random place out of
    its cell and has 0.76 of its side, so that edges do not give the order away; each tile is
    brought to mean 0 and spread 1; 30 % of the training images lose their colour. Every tile goes
    through the network by itself, and an exit reads the features of all tiles together.

    Attributes:
        image_shape: Height and width.
        grid: Tiles a side: 2, with all 24 orders, or 3, with the 1000 that differ most.
        network_shape: Height and width that the tiles are brought to, for networks that take
            images of one size only; ``None`` leaves them as they are, which is far cheaper.

    Raises:
        DataError: The images are too small.
    """

    image_shape: tuple[int, int]
    grid: int = 2
    network_shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.grid not in (2, 3):
            raise DataError(f"a jigsaw has 2 or 3 tiles a side, got {self.grid}")
        if min(self.image_shape) < 8 * self.grid:
            raise DataError(
                f"a jigsaw of {self.grid}×{self.grid} tiles needs images of {8 * self.grid} pixels "
                f"a side at least, got {self.image_shape[0]}×{self.image_shape[1]}"
            )

    @property
    def name(self) -> str:
        """``jigsaw``."""
        return "jigsaw"

    @property
    def classes(self) -> int:
        """The orders there are."""
        return len(_orders(self.grid))

    @property
    def reads_maps(self) -> bool:
        """No: the pooled features."""
        return False

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Height and width of a tile, before it is brought to the network's."""
        height, width = (round(_TILE_SHARE * (side // self.grid)) for side in self.image_shape)
        return height, width

    def transform(
        self, images: NDArray[np.float32], generator: np.random.Generator, *, train: bool
    ) -> Examples:
        """All tiles of the first image in a drawn order, then those of the next."""
        count, parts = len(images), self.grid**2
        if train:
            grey = generator.random(count) < _GREY_SHARE
            images = np.where(
                grey[:, None, None, None], images.mean(-1, keepdims=True), images
            ).astype(np.float32)
        height, width = self.tile_shape
        rows = self._starts(0, generator, count)[:, :, None] + np.arange(height)
        columns = self._starts(1, generator, count)[:, :, None] + np.arange(width)
        which = np.arange(count)[:, None, None, None]
        tiles = images[which, rows[:, :, :, None], columns[:, :, None, :]]
        mean = tiles.mean((2, 3, 4), keepdims=True)
        spread = np.maximum(tiles.std((2, 3, 4), keepdims=True), _LEAST_SPREAD)
        tiles = (tiles - mean) / spread * _SPREAD + _MEAN
        labels = generator.integers(self.classes, size=count)
        tiles = tiles[np.arange(count)[:, None], _orders(self.grid)[labels]]
        shown = tiles.reshape(count * parts, height, width, 3).astype(np.float32)
        return Examples(_resized(shown, self.network_shape), labels.astype(np.int64))

    def width(self, channels: int) -> int:
        """Those of all tiles."""
        return channels * self.grid**2

    def arrange(self, read: Tensor) -> Tensor:
        """The features of an image's tiles behind each other."""
        return read.reshape(-1, self.width(read.shape[1]))

    def _starts(self, axis: int, generator: np.random.Generator, count: int) -> NDArray[np.integer]:
        """``(images, tiles)``: where each tile begins in its cell."""
        cell = self.image_shape[axis] // self.grid
        gap = cell - self.tile_shape[axis]
        at = np.indices((self.grid, self.grid))[axis].reshape(1, -1)
        result: NDArray[np.integer] = at * cell + generator.integers(
            gap + 1, size=(count, self.grid**2)
        )
        return result


def _resized(images: NDArray[np.float32], shape: tuple[int, int] | None) -> NDArray[np.float32]:
    if shape is None or shape == images.shape[1:3]:
        return images
    import torch
    from torch.nn import functional

    maps = torch.from_numpy(images).permute(0, 3, 1, 2)
    larger = functional.interpolate(maps, size=shape, mode="bilinear", align_corners=False)
    result: NDArray[np.float32] = larger.permute(0, 2, 3, 1).contiguous().numpy()
    return result


@cache
def _orders(grid: int) -> NDArray[np.integer]:
    """The orders to tell apart, ``(orders, tiles)``; always the same ones.

    All if they are few. Otherwise one after the other that has most places different from the
    nearest one chosen before, out of twenty thousand drawn with a fixed seed.
    """
    tiles = grid**2
    if math.factorial(tiles) <= _MOST_PERMUTATIONS:
        return np.array(list(permutations(range(tiles))))
    generator = np.random.default_rng(0)
    candidates = generator.permuted(np.tile(np.arange(tiles), (_CANDIDATES, 1)), axis=1)
    chosen = [0]
    nearest = (candidates != candidates[0]).sum(1)
    for _ in range(_MOST_PERMUTATIONS - 1):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, (candidates != candidates[chosen[-1]]).sum(1))
    return candidates[chosen]
