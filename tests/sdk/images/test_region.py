"""A region is cut out of the upright image, then turned, then resized."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from offramp.bundle import InputSpec
from offramp.images import load_image, region_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRACTIONS = st.floats(0, 1).filter(lambda value: value == 0 or value > 1e-300)


@pytest.fixture
def array(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (20, 30, 3), np.uint8)


def _png(array: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("rotation", [0, 90, 180, 270, -90, 360, 450])
@pytest.mark.parametrize("region", [None, (0.1, 0.25, 0.9, 0.75), (0.0, 0.0, 1.0, 1.0)])
@pytest.mark.parametrize("spec", [InputSpec(height=6, width=8), InputSpec(height=10, width=24)])
def test_cut_then_turned_then_resized(
    array: NDArray[np.uint8], rotation: int, region: Any, spec: InputSpec
) -> None:
    left, top, right, bottom = (0, 0, 30, 20) if region is None else (3, 5, 27, 15)
    if region == (0.0, 0.0, 1.0, 1.0):
        left, top, right, bottom = 0, 0, 30, 20
    part = array[top:bottom, left:right]
    # Transposed and then mirrored left to right: a quarter turn clockwise.
    for _ in range(rotation // 90 % 4):
        part = part.transpose(1, 0, 2)[:, ::-1]
    expected = load_image(np.ascontiguousarray(part), spec)
    for image in (array, Image.fromarray(array), _png(array)):
        given = load_image(image, spec, region=region, rotation_degrees=rotation)
        np.testing.assert_array_equal(given, expected)


def test_the_orientation_comes_first(array: NDArray[np.uint8]) -> None:
    spec = InputSpec(height=5, width=6)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    # Stored a quarter turn against the clock; the tag says to turn it back.
    Image.fromarray(np.ascontiguousarray(np.rot90(array))).save(file, "PNG", exif=exif)
    region = (0.2, 0.1, 0.6, 0.5)
    np.testing.assert_array_equal(
        load_image(file.getvalue(), spec, region=region), load_image(array, spec, region=region)
    )


def test_a_part_that_fits_is_a_view(array: NDArray[np.uint8]) -> None:
    part = load_image(array, InputSpec(height=10, width=15), region=(0.5, 0.0, 1.0, 0.5))
    assert np.shares_memory(part, array)
    np.testing.assert_array_equal(part, array[:10, 15:])


@pytest.mark.parametrize(
    "region",
    [
        (0.5, 0.0, 0.5, 1.0),
        (0.6, 0.0, 0.5, 1.0),
        (0.0, 0.9, 1.0, 0.1),
        (-0.1, 0.0, 1.0, 1.0),
        (0.0, 0.0, 1.1, 1.0),
        (float("nan"), 0.0, 1.0, 1.0),
        (0.0, 0.0, 1.0),
    ],
)
def test_regions_that_are_none(array: NDArray[np.uint8], region: Any) -> None:
    for image in (array, Image.fromarray(array)):
        with pytest.raises(ValueError, match=r"region is .*expected \(left, top, right, bottom\)"):
            load_image(image, InputSpec(height=6, width=8), region=region)


@pytest.mark.parametrize("rotation", [1, 45, -91])
def test_only_quarter_turns(array: NDArray[np.uint8], rotation: int) -> None:
    with pytest.raises(ValueError, match=f"rotation_degrees is {rotation}, expected a multiple"):
        load_image(array, InputSpec(height=6, width=8), rotation_degrees=rotation)


def test_edges_are_rounded_halves_upwards() -> None:
    assert region_box(10, 10, (0.25, 0.35, 0.74, 0.849)) == (3, 4, 7, 8)
    assert region_box(3, 3, (0.0, 0.0, 0.01, 0.01)) == (0, 0, 1, 1)
    assert region_box(3, 3, (0.99, 0.99, 1.0, 1.0)) == (2, 2, 3, 3)


@given(st.integers(1, 5000), st.integers(1, 5000), st.tuples(*[FRACTIONS] * 4))
def test_a_region_is_never_empty_and_never_outside(
    width: int, height: int, values: tuple[float, float, float, float]
) -> None:
    left, right = sorted(values[:2])
    top, bottom = sorted(values[2:])
    if left == right or top == bottom:
        return
    x0, y0, x1, y1 = region_box(width, height, (left, top, right, bottom))
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert abs(x0 - left * width) <= 1
    assert abs(x1 - right * width) <= 1
