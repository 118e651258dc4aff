"""Every source reads real files, and says what is wrong with bad ones."""

from __future__ import annotations

import gzip
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from offramp.errors import DataError
from offramp_search.data import FashionMnist, Hub, ImageFolder, Parquet, load_data, open_source
from offramp_search.data._idx import parse_idx

if TYPE_CHECKING:
    from pathlib import Path


def write_folder(folder: Path, rng: np.random.Generator, *, per_class: int, side: int = 8) -> None:
    for label, level in (("bright", 200), ("dark", 20)):
        (folder / label).mkdir(parents=True)
        for index in range(per_class):
            image = rng.integers(level, level + 40, (side, side, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / label / f"{index:03}.png")


def idx(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    header = np.array([8 << 8 | array.ndim, *array.shape], dtype=">u4").tobytes()
    return gzip.compress(header + array.tobytes(), compresslevel=1)


def test_a_folder_of_images_is_split(tmp_path: Path, rng: np.random.Generator) -> None:
    write_folder(tmp_path / "images", rng, per_class=20)
    splits = load_data(str(tmp_path / "images"), folder_cache=tmp_path, seed=0)
    assert splits.labels == ("bright", "dark")
    assert splits.train.image_shape == (8, 8)
    assert sum(len(part) for part in (splits.train, splits.search, splits.test)) == 34
    assert (splits.test.images.mean(axis=(1, 2, 3)) < 100).tolist() == (
        splits.test.labels == 1
    ).tolist()


def test_a_folder_with_train_and_test_keeps_its_test(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    write_folder(tmp_path / "train", rng, per_class=6)
    write_folder(tmp_path / "test", rng, per_class=2)
    images = ImageFolder(tmp_path).read(None)
    assert images.test is not None
    assert (len(images.train), len(images.test)) == (12, 4)


def test_large_photos_are_shrunk_unless_a_size_is_asked_for(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    write_folder(tmp_path, rng, per_class=1, side=200)
    assert ImageFolder(tmp_path).read(None).train.image_shape == (96, 96)
    assert ImageFolder(tmp_path).read((120, 60)).train.image_shape == (120, 60)


def test_words_lead_to_sources(tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "train.parquet").touch()
    (tmp_path / "folder").mkdir()
    found = [
        open_source(word, folder_cache=tmp_path)
        for word in (
            "fashion-mnist",
            str(tmp_path / "parquet"),
            str(tmp_path / "folder"),
            "owner/name",
        )
    ]
    assert [type(source) for source in found] == [FashionMnist, Parquet, ImageFolder, Hub]
    with pytest.raises(DataError, match="no folder, and no data set either"):
        open_source("nonsense", folder_cache=tmp_path)


def test_parquet_files_with_features_are_read(tmp_path: Path, rng: np.random.Generator) -> None:
    import datasets

    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
    )
    pixels = rng.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)

    def png(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
        content = io.BytesIO()
        Image.fromarray(image).save(content, format="PNG")
        return content.getvalue()

    for name, rows in (("train", range(4)), ("test", range(4, 6))):
        table = datasets.Dataset.from_dict(
            {
                "picture": [{"bytes": png(pixels[row]), "path": None} for row in rows],
                "kind": [row % 2 for row in rows],
            },
            features=features,
        )
        table.to_parquet(str(tmp_path / f"{name}.parquet"))
    images = Parquet(tmp_path, tmp_path / "cache").read(None)
    assert images.labels == ("cat", "dog")
    np.testing.assert_array_equal(images.train.images, pixels[:4])
    assert images.test is not None
    np.testing.assert_array_equal(images.test.images, pixels[4:])
    np.testing.assert_array_equal(images.test.labels, [0, 1])


def test_cifar10_is_read(data_folder: Path, tmp_path: Path) -> None:
    # Only the test file: reading all 60,000 images takes a while.
    (tmp_path / "train.parquet").symlink_to(data_folder / "cifar10" / "test.parquet")
    images = Parquet(tmp_path, tmp_path / "cache").read(None)
    assert images.train.images.shape == (10_000, 32, 32, 3)
    assert images.labels[:3] == ("airplane", "automobile", "bird")
    np.testing.assert_array_equal(np.bincount(images.train.labels), 1_000)
    assert images.test is None


def test_an_unreadable_parquet_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no train\.parquet"):
        Parquet(tmp_path, tmp_path).read(None)
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="could not be loaded"):
        Parquet(tmp_path, tmp_path / "cache").read(None)


def test_cached_fashion_mnist_becomes_rgb(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    grey = rng.integers(0, 256, (70_000, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, 70_000, dtype=np.uint8)
    for part, rows in (("train", slice(0, 60_000)), ("t10k", slice(60_000, None))):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(grey[rows]))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels[rows]))
    images = FashionMnist(tmp_path).read(None)
    assert images.train.images.shape == (60_000, 28, 28, 3)
    assert images.test is not None
    for channel in range(3):
        np.testing.assert_array_equal(images.test.images[..., channel], grey[60_000:])
    np.testing.assert_array_equal(images.test.labels, labels[60_000:])
    assert images.labels[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no gzip", "damaged"),
        (idx(np.zeros((2, 3), np.uint8))[:-4], "damaged"),
        (idx(np.zeros((2, 4), np.uint8)), "does not hold 2×3 unsigned bytes"),
        (gzip.compress(b"\0\0\x0d\x02" + bytes(8 + 6)), "does not hold"),
        (gzip.compress(gzip.decompress(idx(np.zeros((2, 3), np.uint8))) + b"x"), "does not hold"),
    ],
)
def test_damaged_idx_files_are_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse_idx(content, name="images.gz", shape=(2, 3))


def test_without_any_way_to_fashion_mnist_the_error_says_all_that_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"no apt-get .* could not be loaded .* --data FOLDER works"
    ):
        FashionMnist(tmp_path).read(None)
