"""From the word a user gives to splits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.errors import DataError
from offramp_search.data._fashion_mnist import FashionMnist
from offramp_search.data._folder import ImageFolder
from offramp_search.data._hub import Hub, Parquet
from offramp_search.data._split import Shares, split

if TYPE_CHECKING:
    from offramp_search.data._base import Source, Splits

__all__ = ["load_data", "open_source"]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def open_source(source: str, *, folder_cache: Path) -> Source:
    """The source behind a word.

    Args:
        source: A folder of images (one sub-folder per class), a folder of parquet files,
            ``fashion-mnist``, or the name of a data set of the Hugging Face hub, ``owner/name``.
        folder_cache: Where downloads are kept.

    Raises:
        DataError: It is none of these.
    """
    folder = Path(source)
    if source == "fashion-mnist":
        return FashionMnist(folder_cache)
    if folder.is_dir():
        if any(folder.glob("*.parquet")):
            return Parquet(folder, folder_cache)
        return ImageFolder(folder)
    if _HUB_NAME.fullmatch(source) and not folder.exists():
        return Hub(source, folder_cache)
    raise DataError(
        f"{source!r} is no folder, and no data set either; give a folder with one sub-folder of "
        f"images per class, a folder with train.parquet, fashion-mnist, or a hub name OWNER/NAME"
    )


def load_data(
    source: str,
    *,
    folder_cache: Path,
    seed: int,
    image_shape: tuple[int, int] | None = None,
    shares: Shares | None = None,
) -> Splits:
    """Read images and split them into train, search, calibration and test.

    Args:
        source: See ``open_source``.
        folder_cache: Where downloads are kept.
        seed: Seed of the splits.
        image_shape: Height and width to bring the images to; ``None`` keeps the first image's
            own size, shrunk to 96 pixels if it is larger.
        shares: Sizes of the splits.

    Raises:
        DataError: There is nothing to read, or too little to split.
    """
    images = open_source(source, folder_cache=folder_cache).read(image_shape)
    return split(images, seed=seed, shares=shares)
