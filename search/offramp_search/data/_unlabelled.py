"""Images whose labels nobody knows, or nobody asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from offramp.errors import DataError
from offramp_search.data._base import ImageSet
from offramp_search.data._load import open_source
from offramp_search.data._resize import own_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["is_unlabelled", "read_unlabelled"]

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def is_unlabelled(source: str) -> bool:
    """Whether a source is a folder that holds images themselves, not one sub-folder per class."""
    folder = Path(source)
    return folder.is_dir() and any(_is_image(path) for path in folder.iterdir())


def read_unlabelled(
    source: str, *, folder_cache: Path, image_shape: tuple[int, int] | None = None
) -> ImageSet:
    """Read images and no labels; all labels are 0.

    Args:
        source: A folder with images anywhere below it, or whatever ``open_source`` takes, whose
            training images are read.
        folder_cache: Where downloads are kept.
        image_shape: Height and width to bring the images to; ``None`` keeps the first image's
            own size, shrunk to 96 pixels if it is larger.

    Raises:
        DataError: There are no two images.
        ImageError: A file cannot be decoded; the message names it.
    """
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.parquet")):
        pixels = _read_folder(folder, image_shape)
    else:
        pixels = open_source(source, folder_cache=folder_cache).read(image_shape).train.images
    if len(pixels) < 2:
        raise DataError(f"{source} holds {len(pixels)} images; a search needs at least two")
    return ImageSet(pixels, np.zeros(len(pixels), np.int64))


def _read_folder(folder: Path, image_shape: tuple[int, int] | None) -> NDArray[np.uint8]:
    from PIL import Image

    from offramp.bundle import InputSpec
    from offramp.images import load_image

    paths = sorted(path for path in folder.rglob("*") if _is_image(path))
    if not paths:
        raise DataError(
            f"no images below {folder}; expected files ending in one of "
            f"{', '.join(sorted(_SUFFIXES))}"
        )
    if image_shape is None:
        with Image.open(paths[0]) as first:
            image_shape = own_shape((first.height, first.width))
    spec = InputSpec(height=image_shape[0], width=image_shape[1])
    return np.stack([load_image(path, spec) for path in paths])


def _is_image(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() in _SUFFIXES
