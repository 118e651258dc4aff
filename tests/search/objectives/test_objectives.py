from __future__ import annotations

import numpy as np
import pytest

from offramp.errors import DataError
from offramp_search.objectives import (
    OBJECTIVES,
    Colorization,
    Jigsaw,
    Rotation,
    make_objective,
)


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (5, 32, 32, 3)).astype(np.float32)


def test_rotations_turn_back(images: np.ndarray) -> None:
    task = Rotation((32, 32)).transform(images, np.random.default_rng(0), train=True)
    assert task.images.shape == (20, 32, 32, 3)
    for image, label in zip(task.images, task.labels, strict=True):
        back = np.rot90(image, -label, axes=(0, 1))
        assert any(np.array_equal(back, original) for original in images)
    assert np.array_equal(np.bincount(task.labels), [5, 5, 5, 5])


def test_rotation_refuses_images_that_are_not_square() -> None:
    with pytest.raises(DataError, match="square images, got 32×48"):
        Rotation((32, 48))


def test_a_jigsaw_has_the_tiles_of_the_released_configuration() -> None:
    jigsaw = Jigsaw((32, 32))
    assert jigsaw.tile_shape == (12, 12)
    assert jigsaw.classes == 24


def test_the_label_of_a_jigsaw_says_where_each_tile_was() -> None:
    # Four cells whose patterns differ even after they are brought to one mean and spread.
    image = np.zeros((1, 32, 32, 3), np.float32)
    rows, columns = np.indices((16, 16))
    patterns = [rows % 2, columns % 2, (rows + columns) % 2, (rows // 3 + columns // 3) % 2]
    for cell, pattern in enumerate(patterns):
        at = (slice(16 * (cell // 2), 16 * (cell // 2) + 16), slice(16 * (cell % 2), None))
        image[0][at][:, :16] = 200 * pattern[..., None]
    jigsaw = Jigsaw((32, 32))
    orders: dict[int, tuple[int, ...]] = {}
    for seed in range(60):
        task = jigsaw.transform(image, np.random.default_rng(seed), train=False)
        order = tuple(_which(tile) for tile in task.images[..., 0])
        assert sorted(order) == [0, 1, 2, 3]
        assert orders.setdefault(int(task.labels[0]), order) == order
    assert len(set(orders.values())) == len(orders) > 15


def _which(tile: np.ndarray) -> int:
    down, across = np.diff(tile, axis=0).std(), np.diff(tile, axis=1).std()
    if across < 1:
        return 0
    if down < 1:
        return 1
    return 2 if np.abs(np.diff(tile, axis=0)).min() > 1 else 3


def test_tiles_have_one_mean_and_spread_and_training_loses_some_colour(
    images: np.ndarray,
) -> None:
    many = np.concatenate([images] * 20)
    task = Jigsaw((32, 32)).transform(many, np.random.default_rng(1), train=True)
    assert task.images.mean((1, 2, 3)) == pytest.approx(115, abs=1e-2)
    assert task.images.std((1, 2, 3)) == pytest.approx(58, abs=1e-2)
    grey = np.ptp(task.images, axis=-1).max((1, 2)) < 1e-3
    assert 0.15 < grey.mean() < 0.45
    plain = Jigsaw((32, 32)).transform(many, np.random.default_rng(1), train=False)
    assert not (np.ptp(plain.images, axis=-1).max((1, 2)) < 1e-3).any()


def test_the_orders_of_nine_tiles_differ_much() -> None:
    jigsaw = Jigsaw((64, 64), grid=3)
    assert jigsaw.classes == 1_000
    image = np.random.default_rng(0).random((1, 64, 64, 3)).astype(np.float32) * 255
    assert jigsaw.transform(image, np.random.default_rng(0), train=False).images.shape == (
        *(9, 16, 16),
        3,
    )


def test_colours_are_told_apart_and_not_shown() -> None:
    objective = Colorization((8, 8), cell=4)
    images = np.zeros((2, 8, 8, 3), np.float32)
    images[0, :4, :4] = (220, 30, 30)
    images[0, 4:, 4:] = (30, 30, 220)
    images[1] = 128
    task = objective.transform(images, np.random.default_rng(0), train=True)
    assert np.ptp(task.images, axis=-1).max() == 0
    labels = task.labels.reshape(2, 2, 2)
    assert len({labels[0, 0, 0], labels[0, 1, 1], labels[1, 0, 0]}) == 3
    assert len(set(labels[1].ravel())) == 1
    assert task.images[1] == pytest.approx(53.6 * 2.55, abs=0.2)  # the lightness of middle grey
    assert objective.classes == 261


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("side", [32, 33, 96])
def test_words_make_objectives(name: str, side: int) -> None:
    objective = make_objective(name, (side, side))  # type: ignore[arg-type]
    assert objective.name == name


def test_small_images_are_refused() -> None:
    with pytest.raises(DataError, match="at least, got 12×12"):
        Jigsaw((12, 12))
    with pytest.raises(DataError, match="2 or 3 tiles a side, got 4"):
        Jigsaw((64, 64), grid=4)
    with pytest.raises(DataError, match="cells of 5 pixels"):
        Colorization((32, 32), cell=5)
