"""Labelled images: one sub-folder per class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.errors import DataError
from offramp.images._load import load_image

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from offramp.bundle import InputSpec

__all__ = ["LabelledFolder"]

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_ENDINGS = ", ".join(sorted(_SUFFIXES))


@final
@dataclass(frozen=True, slots=True, eq=False)
class LabelledFolder:
    """The images below a folder whose sub-folders are named after their classes.

    Attributes:
        classes: The class names, in the order of the labels.
        paths: The image files: classes in order, and file names in order within each.
        labels: ``(images,)`` int64, an index into ``classes`` for each path.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], labels: Sequence[str] | None = None
    ) -> LabelledFolder:
        """List a folder; no image is read yet.

        Args:
            folder: Holds one sub-folder per class; files and folders whose names begin with a dot
                are passed over.
            labels: A bundle's labels, whose order is then kept; ``None`` takes the names of the
                sub-folders, sorted.

        Raises:
            DataError: No such folder, no images in it, a sub-folder that is no label, or a file
                that is no image.
        """
        root = Path(folder)
        if not root.is_dir():
            raise DataError(f"no folder at {root}; expected one with a sub-folder per class")
        found = _visible(root)
        if stray := [path for path in found if not path.is_dir()]:
            raise DataError(f"{stray[0]} is in no class; move it into a sub-folder of its class")
        names = [path.name for path in found]
        classes = tuple(names if labels is None else labels)
        if unknown := sorted(set(names) - set(classes)):
            raise DataError(
                f"the folder {root / unknown[0]} is none of the labels {', '.join(classes)}"
            )
        paths: list[Path] = []
        numbers: list[int] = []
        for number, name in enumerate(classes):
            for path in _visible(root / name) if name in names else []:
                if not path.is_file() or path.suffix.lower() not in _SUFFIXES:
                    raise DataError(
                        f"{path} is no image; expected a file ending in one of {_ENDINGS}"
                    )
                paths.append(path)
                numbers.append(number)
        if not paths:
            raise DataError(f"no images below {root}; expected one sub-folder per class")
        return cls(classes, tuple(paths), np.array(numbers, dtype=np.int64))

    def load(
        self, spec: InputSpec, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.uint8]:
        """Decode and resize all images.

        Args:
            spec: The input of the bundle.
            progress: Called with the number done and the number in all.

        Returns:
            ``(images, height, width, 3)`` uint8.

        Raises:
            ImageError: A file cannot be decoded; the message names it.
        """
        result = np.empty((len(self.paths), spec.height, spec.width, 3), np.uint8)
        for number, path in enumerate(self.paths):
            result[number] = load_image(path, spec)
            if progress is not None:
                progress(number + 1, len(self.paths))
        return result


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
