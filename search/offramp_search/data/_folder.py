"""A folder of images, one sub-folder per class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from offramp.errors import DataError
from offramp_search.data._base import ImageSet, Source, SourceImages
from offramp_search.data._resize import own_shape

if TYPE_CHECKING:
    from pathlib import Path

    from offramp.bundle import InputSpec
    from offramp.images import LabelledFolder

__all__ = ["ImageFolder"]


@final
@dataclass(frozen=True, slots=True)
class ImageFolder(Source):
    """A folder with one sub-folder of images per class, or with two such folders.

    ``FOLDER/<class>/*.png``, or ``FOLDER/train/<class>/*.png`` and ``FOLDER/test/<class>/*.png``.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def read(self, image_shape: tuple[int, int] | None) -> SourceImages:
        """Decode all images."""
        from PIL import Image

        from offramp.bundle import InputSpec
        from offramp.images import LabelledFolder

        if not self.folder.is_dir():
            raise DataError(f"there is no folder {self.folder}")
        parts = {path.name for path in self.folder.iterdir() if path.is_dir()}
        has_test = parts == {"train", "test"}
        train = LabelledFolder.open(self.folder / "train" if has_test else self.folder)
        if image_shape is None:
            with Image.open(train.paths[0]) as first:
                image_shape = own_shape((first.height, first.width))
        spec = InputSpec(height=image_shape[0], width=image_shape[1])
        test = None
        if has_test:
            # The classes of training decide: a test folder that lacks one, or has one more, would
            # otherwise shift all labels.
            test = _load(LabelledFolder.open(self.folder / "test", labels=train.classes), spec)
        return SourceImages(train=_load(train, spec), test=test, labels=tuple(train.classes))


def _load(folder: LabelledFolder, spec: InputSpec) -> ImageSet:
    return ImageSet(folder.load(spec), folder.labels)
