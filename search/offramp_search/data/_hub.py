"""Parquet files and data sets of the Hugging Face hub, through one library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp.errors import DataError, ImageError
from offramp_search.data._base import ImageSet, Source, SourceImages
from offramp_search.data._resize import own_shape, stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Hub", "Parquet"]

# Names that data sets give to the split that nobody may choose anything on, best first.
_TEST_SPLITS = ("test", "validation", "valid")


@final
@dataclass(frozen=True, slots=True)
class Parquet(Source):
    """A folder with ``train*.parquet`` and perhaps ``test*.parquet``.

    The files carry Hugging Face features: one column of images and one of class labels.

    Attributes:
        folder: The folder.
        cache: Where the decoded tables are kept between runs.
    """

    folder: Path
    cache: Path

    def read(self, image_shape: tuple[int, int] | None) -> SourceImages:
        """Read all parquet files of the folder."""
        files = {
            part: [str(path) for path in sorted(self.folder.glob(f"{part}*.parquet"))]
            for part in ("train", "test")
        }
        files = {part: paths for part, paths in files.items() if paths}
        if "train" not in files:
            raise DataError(f"{self.folder} holds no train.parquet")
        return _read(
            str(self.folder),
            lambda load: load("parquet", data_files=files, cache_dir=str(self.cache / "datasets")),
            image_shape,
        )


@final
@dataclass(frozen=True, slots=True)
class Hub(Source):
    """A data set of the Hugging Face hub with a column of images and one of class labels.

    Attributes:
        name: Its name there, such as ``zalando-datasets/fashion_mnist``.
        cache: Where it is kept between runs.
    """

    name: str
    cache: Path

    def read(self, image_shape: tuple[int, int] | None) -> SourceImages:
        """Read the data set, downloading it first if need be."""
        return _read(
            self.name,
            lambda load: load(self.name, cache_dir=str(self.cache / "datasets")),
            image_shape,
        )


def _read(
    name: str, open_: Callable[[Callable[..., Any]], Any], image_shape: tuple[int, int] | None
) -> SourceImages:
    import datasets

    datasets.disable_progress_bars()
    try:
        tables = open_(datasets.load_dataset)
    except Exception as error:  # the library lets through whatever its many back ends raise
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise DataError(f"the data set {name!r} could not be loaded ({reason[0]})") from error
    if "train" not in tables:
        raise DataError(f"the data set {name!r} has no train split, only {sorted(tables)}")
    image, label, labels = _columns(name, tables["train"].features)
    test = next((tables[part] for part in _TEST_SPLITS if part in tables), None)
    train = _decode(name, tables["train"], image, label, image_shape)
    return SourceImages(
        train=train,
        test=None if test is None else _decode(name, test, image, label, train.image_shape),
        labels=labels,
    )


def _columns(name: str, features: Any) -> tuple[str, str, tuple[str, ...]]:
    import datasets

    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not images or not labels:
        raise DataError(
            f"the data set {name!r} needs a column of images and one of class labels, "
            f"got {dict(features)}"
        )
    return images[0], labels[0], tuple(features[labels[0]].names)


def _decode(
    name: str, table: Any, image: str, label: str, image_shape: tuple[int, int] | None
) -> ImageSet:
    from offramp.bundle import InputSpec

    if not len(table):
        raise DataError(f"the data set {name!r} has an empty split")
    shape = image_shape or own_shape(table[0][image].size[::-1])
    try:
        images = stack(
            (row[image] for row in table),
            InputSpec(height=shape[0], width=shape[1]),
            len(table),
        )
    except ImageError as error:
        raise DataError(f"the data set {name!r} holds an image nobody can read: {error}") from error
    return ImageSet(images, np.asarray(table[label], dtype=np.int64))
