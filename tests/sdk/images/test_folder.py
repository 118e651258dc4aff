"""Labelled folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from offramp.bundle import InputSpec
from offramp.errors import DataError, ImageError
from offramp.images import LabelledFolder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPEC = InputSpec(height=4, width=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name, values in (("cat", (1, 2)), ("ant", (3,)), ("bee", (4, 5))):
        (root / name).mkdir(parents=True)
        for value in values:
            Image.new("RGB", (4, 4), (value,) * 3).save(root / name / f"{value}.png")
    return root


def test_classes_and_files_are_in_order(folder: Path) -> None:
    (folder / ".cache").mkdir()
    (folder / "ant" / ".DS_Store").write_text("x")
    found = LabelledFolder.open(folder)
    assert found.classes == ("ant", "bee", "cat")
    assert [path.stem for path in found.paths] == ["3", "4", "5", "1", "2"]
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [0, 1, 1, 2, 2]


def test_a_bundles_labels_keep_their_order(folder: Path) -> None:
    found = LabelledFolder.open(str(folder), labels=["cat", "dog", "bee", "ant"])
    assert found.classes == ("cat", "dog", "bee", "ant")
    assert found.labels.tolist() == [0, 0, 2, 2, 3]


def test_load(folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    images = LabelledFolder.open(folder).load(SPEC, lambda *step: steps.append(step))
    assert images.shape == (5, 4, 4, 3)
    assert images.dtype == np.uint8
    assert images[:, 0, 0, 0].tolist() == [3, 4, 5, 1, 2]
    assert steps == [(number, 5) for number in range(1, 6)]


def _empty(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: folder.rename(folder.with_name("gone")), "no folder at"),
        (_empty, "no images below"),
        (lambda folder: (folder / "cat" / "notes.txt").write_text("x"), r"notes\.txt is no image"),
        (lambda folder: (folder / "cat" / "more.png").mkdir(), r"more\.png is no image"),
        (lambda folder: (folder / "loose.png").write_bytes(b""), "is in no class; move it"),
        (lambda folder: (folder / "dog").mkdir(), "dog is none of the labels ant, bee, cat"),
    ],
)
def test_folders_that_cannot_be_used(
    folder: Path, change: Callable[[Path], object], message: str
) -> None:
    change(folder)
    with pytest.raises(DataError, match=message):
        LabelledFolder.open(folder, labels=["ant", "bee", "cat"])


def test_a_damaged_image_is_named(folder: Path) -> None:
    (folder / "bee" / "4.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"4\.png is no image"):
        LabelledFolder.open(folder).load(SPEC)
