from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from offramp.errors import DataError
from offramp_search.data import is_unlabelled, read_unlabelled

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.full((12, 12, 3), index, np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def test_a_folder_of_images_needs_no_classes(tmp_path: Path) -> None:
    write(tmp_path / "photos", 3)
    write(tmp_path / "photos" / "more", 2)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    assert is_unlabelled(str(tmp_path / "photos"))
    images = read_unlabelled(str(tmp_path / "photos"), folder_cache=tmp_path)
    assert images.images.shape == (5, 12, 12, 3)
    assert not images.labels.any()
    smaller = read_unlabelled(str(tmp_path / "photos"), folder_cache=tmp_path, image_shape=(8, 8))
    assert smaller.image_shape == (8, 8)


def test_class_folders_are_read_without_their_names(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a", 2)
    write(tmp_path / "data" / "b", 2)
    assert not is_unlabelled(str(tmp_path / "data"))
    images = read_unlabelled(str(tmp_path / "data"), folder_cache=tmp_path)
    assert len(images) == 4
    assert not images.labels.any()


def test_no_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images below"):
        read_unlabelled(str(tmp_path / "empty"), folder_cache=tmp_path)
    write(tmp_path / "one", 1)
    with pytest.raises(DataError, match="holds 1 images"):
        read_unlabelled(str(tmp_path / "one"), folder_cache=tmp_path)
