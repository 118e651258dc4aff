"""Splits are disjoint, stratified and decided by the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import DataError, ShapeError
from offramp_search.data import ImageSet, Shares, SourceImages, Splits, split, take_stratified

PARTS = ("train", "search", "calibration", "test")


def numbered(counts: list[int]) -> ImageSet:
    """Images that say their own number, so that any mix-up of splits shows."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    images = np.zeros((len(labels), 1, 1, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels)) % 256
    images[:, 0, 0, 1] = np.arange(len(labels)) // 256
    return ImageSet(images, labels)


def numbers(images: ImageSet) -> set[int]:
    return {int(first) + 256 * int(second) for first, second, _ in images.images[:, 0, 0]}


def source(counts: list[int], test: list[int] | None = None) -> SourceImages:
    return SourceImages(
        numbered(counts),
        None if test is None else numbered(test),
        tuple(f"class {index}" for index in range(len(counts))),
    )


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(4, 60), min_size=2, max_size=5),
    seed=st.integers(0, 2**31),
)
def test_four_splits_are_disjoint_and_together_everything(counts: list[int], seed: int) -> None:
    splits = split(source(counts), seed=seed)
    parts = [numbers(getattr(splits, name)) for name in PARTS]
    assert set.union(*parts) == set(range(sum(counts)))
    assert sum(map(len, parts)) == sum(counts)
    for name in PARTS:
        assert set(getattr(splits, name).labels) == set(range(len(counts)))


def test_classes_keep_their_proportion() -> None:
    splits = split(source([100, 300]), seed=0, shares=Shares(search=0.1, calibration=0.2, test=0.5))
    for name, expected in zip(PARTS, [(35, 105), (5, 15), (10, 30), (50, 150)], strict=True):
        assert tuple(np.bincount(getattr(splits, name).labels)) == expected


def test_an_own_test_split_is_kept_whole() -> None:
    splits = split(source([50, 50], test=[7, 9]), seed=0)
    assert numbers(splits.test) == set(range(16))
    assert len(splits.train) + len(splits.search) + len(splits.calibration) == 100


def test_the_seed_decides() -> None:
    first, again, other = (split(source([50, 50]), seed=seed) for seed in (1, 1, 2))
    assert first.train.sha256 == again.train.sha256
    assert numbers(first.train) != numbers(other.train)


def test_pretrained_networks_are_calibrated_and_reported_on_halves_of_test() -> None:
    splits = split(source([40, 40], test=[20, 30]), seed=0)
    halved = splits.for_pretrained(seed=3)
    assert numbers(halved.calibration) | numbers(halved.test) == set(range(50))
    assert not numbers(halved.calibration) & numbers(halved.test)
    assert tuple(np.bincount(halved.test.labels)) == (10, 15)
    assert halved.train is splits.train


def test_a_class_with_too_few_images_is_named() -> None:
    with pytest.raises(DataError, match="'class 1' has 2 images"):
        split(source([10, 2], test=[5, 5]), seed=0)


@given(count=st.integers(2, 70), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_a_subset_keeps_the_proportion(count: int, seed: int) -> None:
    taken = take_stratified(numbered([20, 40]), count, seed=seed)
    assert len(taken) == len(numbers(taken)) == min(count, 60)
    assert abs(np.sum(taken.labels == 0) - min(count, 60) / 3) <= 1


def test_fingerprints_see_pixels_labels_and_order() -> None:
    images = numbered([3, 3])
    other = images.images.copy()
    other[0, 0, 0, 2] = 1
    relabelled = images.labels.copy()
    relabelled[0] = 1
    seen = {
        images.sha256,
        ImageSet(other, images.labels).sha256,
        ImageSet(images.images, relabelled).sha256,
        images.take(np.array([1, 0, 2, 3, 4, 5])).sha256,
    }
    assert len(seen) == 4


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(images, height, width, 3\) uint8"):
        ImageSet(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64))
    with pytest.raises(ShapeError, match=r"\(2,\) int64 labels"):
        ImageSet(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(DataError, match="at least two classes"):
        SourceImages(numbered([3]), None, ("only",))
    with pytest.raises(DataError, match="between 0 and 1"):
        SourceImages(numbered([3, 3, 3]), None, ("a", "b"))
    with pytest.raises(DataError, match="shares must be positive"):
        Shares(search=0.5, calibration=0.5)


def test_splits_hold_four_sets() -> None:
    assert set(PARTS) < set(Splits.__dataclass_fields__)
