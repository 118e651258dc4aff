"""Fashion-MNIST, from the cache, the Debian package, or the hub."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from offramp._files import write_atomically
from offramp.errors import DataError
from offramp_search.data._base import ImageSet, Source, SourceImages
from offramp_search.data._hub import Hub
from offramp_search.data._idx import parse_idx
from offramp_search.data._resize import resize

__all__ = ["FashionMnist"]

_PACKAGE = "dataset-fashion-mnist"
_HUB_NAME = "zalando-datasets/fashion_mnist"
_SIDE = 28
_COUNTS = {"train": 60_000, "t10k": 10_000}
_FILES = tuple(
    f"{part}-{kind}-ubyte.gz" for part in _COUNTS for kind in ("images-idx3", "labels-idx1")
)
_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@final
@dataclass(frozen=True, slots=True)
class FashionMnist(Source):
    """70,000 grey images of clothes, 28×28 (Xiao et al. 2017, MIT licence); grey becomes RGB.

    Attributes:
        cache: A folder that keeps the files between runs.
    """

    cache: Path

    def read(self, image_shape: tuple[int, int] | None) -> SourceImages:
        """Read the images, fetching them first if need be."""
        folder = self.cache / "fashion-mnist"
        if not all((folder / name).is_file() for name in _FILES):
            trouble = _fetch_package(folder)
            if trouble is not None:
                return self._from_hub(image_shape, trouble)
        return SourceImages(
            train=_read_part(folder, "train", image_shape),
            test=_read_part(folder, "t10k", image_shape),
            labels=_LABELS,
        )

    def _from_hub(self, image_shape: tuple[int, int] | None, trouble: str) -> SourceImages:
        try:
            return Hub(_HUB_NAME, self.cache).read(image_shape)
        except DataError as error:
            raise DataError(
                f"Fashion-MNIST is not at hand: nothing in {self.cache / 'fashion-mnist'}, "
                f"{trouble}, and {error}; --data FOLDER works with any folder that has one "
                f"sub-folder of images per class"
            ) from error


def _fetch_package(folder: Path) -> str | None:
    """Take the files out of the Debian package; a sentence part if that did not work."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return f"no apt-get to download the Debian package {_PACKAGE} with"
    with tempfile.TemporaryDirectory() as temporary:
        if trouble := _run(["apt-get", "download", _PACKAGE], temporary):
            return trouble
        package = next(Path(temporary).glob("*.deb"), None)
        if package is None:
            return f"apt-get downloaded no {_PACKAGE}"
        if trouble := _run(["dpkg-deb", "-x", str(package), "files"], temporary):
            return trouble
        unpacked = Path(temporary, "files", "usr", "share", "datasets", "fashion-mnist")
        if missing := [name for name in _FILES if not (unpacked / name).is_file()]:
            return f"the Debian package {_PACKAGE} has no {missing[0]}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            write_atomically(folder / name, (unpacked / name).read_bytes())
    return None


def _run(command: list[str], folder: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not finish with {_PACKAGE} within five minutes"
    if done.returncode == 0:
        return None
    reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
    return f"{command[0]} failed on the Debian package {_PACKAGE} ({reason[0]})"


def _read_part(folder: Path, part: str, image_shape: tuple[int, int] | None) -> ImageSet:
    count = _COUNTS[part]
    names = (folder / f"{part}-images-idx3-ubyte.gz", folder / f"{part}-labels-idx1-ubyte.gz")
    grey = parse_idx(names[0].read_bytes(), name=str(names[0]), shape=(count, _SIDE, _SIDE))
    labels = parse_idx(names[1].read_bytes(), name=str(names[1]), shape=(count,))
    images = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    return ImageSet(resize(images, image_shape), labels.astype(np.int64))
