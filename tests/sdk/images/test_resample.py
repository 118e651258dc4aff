"""Our resampling and Pillow's agree to the bit, with the passes in the order we fixed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import offramp
from offramp.bundle import InputSpec
from offramp.images import crop_box, load_image, resample, resample_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kernel = Literal["bilinear", "bicubic", "box", "nearest"]
KERNELS: tuple[Kernel, ...] = ("bilinear", "bicubic", "box", "nearest")
SIDES = st.integers(1, 90)


def _pixels(seed: int, height: int, width: int, hard: bool) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    if hard:  # black and white alone: the largest overshoot there is
        return rng.integers(0, 2, (height, width, 3), np.uint8) * np.uint8(255)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(SIDES, SIDES),
    wanted=st.tuples(SIDES, SIDES),
    kernel=st.sampled_from(KERNELS),
    resize=st.sampled_from(("cover", "stretch")),
    hard=st.booleans(),
)
def test_reference_array_and_picture_agree(
    seed: int,
    size: tuple[int, int],
    wanted: tuple[int, int],
    kernel: Kernel,
    resize: Literal["cover", "stretch"],
    hard: bool,
) -> None:
    pixels = _pixels(seed, *size, hard)
    spec = InputSpec(height=wanted[0], width=wanted[1], resize=resize, filter=kernel)
    left, top, right, bottom = crop_box(size[1], size[0], spec)
    reference = resample(pixels[top:bottom, left:right], wanted[1], wanted[0], kernel)
    np.testing.assert_array_equal(load_image(pixels, spec), reference)
    np.testing.assert_array_equal(load_image(Image.fromarray(pixels), spec), reference)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(SIDES, SIDES),
    wanted=st.tuples(SIDES, SIDES),
    kernel=st.sampled_from(KERNELS),
    channels=st.sampled_from((1, 3, 4)),
)
def test_one_call_of_pillow_where_it_goes_across_first(
    seed: int, size: tuple[int, int], wanted: tuple[int, int], kernel: Kernel, channels: int
) -> None:
    """Pillow 13 scales down the columns first if that is much the larger step."""
    (rows, columns), (height, width) = size, wanted
    if rows - height > max(0, 2 * (columns - width)):
        return
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns, channels), np.uint8)
    modes = {1: "L", 3: "RGB", 4: "CMYK"}
    picture = Image.frombytes(modes[channels], (columns, rows), pixels.tobytes())
    scaled = picture.resize((width, height), Image.Resampling[kernel.upper()])
    theirs = np.frombuffer(scaled.tobytes(), np.uint8).reshape(height, width, channels)
    np.testing.assert_array_equal(resample(pixels, width, height, kernel), theirs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_order_of_the_passes_is_ours(kernel: Kernel) -> None:
    """A tall picture, which Pillow alone would scale down the columns first."""
    pixels = _pixels(0, 400, 30, hard=False)
    spec = InputSpec(height=20, width=20, resize="stretch", filter=kernel)
    ours = resample(pixels, 20, 20, kernel)
    np.testing.assert_array_equal(load_image(pixels, spec), ours)
    one_call = np.asarray(
        Image.fromarray(pixels).resize((20, 20), Image.Resampling[kernel.upper()])
    )
    assert np.abs(one_call.astype(int) - ours).max() <= 1


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "box"])
def test_large_photos(kernel: Kernel) -> None:
    pixels = _pixels(1, 700, 2500, hard=False)
    spec = InputSpec(height=96, width=96, filter=kernel)
    left, top, right, bottom = crop_box(2500, 700, spec)
    expected = resample(pixels[top:bottom, left:right], 96, 96, kernel)
    np.testing.assert_array_equal(load_image(pixels, spec), expected)


@given(size=st.integers(1, 3000), wanted=st.integers(1, 300), kernel=st.sampled_from(KERNELS[:3]))
def test_weights_are_a_mean(size: int, wanted: int, kernel: Kernel) -> None:
    first, weights = resample_weights(size, wanted, kernel)
    assert weights.dtype == np.int32
    assert (first >= 0).all()
    assert (np.diff(first) >= 0).all()
    # Each weight is rounded on its own, so their sum may be off by half a unit a tap.
    assert np.abs(weights.sum(axis=1) - 2**22).max() <= weights.shape[1] / 2
    assert np.abs(weights.astype(np.int64)).sum(axis=1).max() * 255 + 2**21 < 2**31


def test_scaling_by_one_changes_nothing() -> None:
    pixels = _pixels(2, 9, 7, hard=False)
    for kernel in KERNELS:
        np.testing.assert_array_equal(resample(pixels, 7, 9, kernel), pixels)
        across = resample(pixels, 14, 9, kernel)
        np.testing.assert_array_equal(
            across, np.stack([resample(row[None], 14, 1, kernel)[0] for row in pixels])
        )


def test_arrays_need_no_pillow(tmp_path: Path) -> None:
    """In an environment without Pillow, to the same bit."""
    site = Path(np.__file__).parents[1]
    for pattern in ("numpy", "numpy.libs", "msgspec", "offramp-*.dist-info"):
        for package in site.glob(pattern):
            (tmp_path / package.name).symlink_to(package)
    script = """
import hashlib, numpy as np
from offramp.bundle import InputSpec
from offramp.images import load_image
pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
spec = InputSpec(height=16, width=16)
print(hashlib.sha256(load_image(pixels, spec, rotation_degrees=90).tobytes()).hexdigest())
try:
    load_image(b"\\xff\\xd8\\xff", spec)
except ModuleNotFoundError as error:
    print(error)
"""
    own = Path(offramp.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": f"{own}{os.pathsep}{tmp_path}"},
    )
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    here = load_image(pixels, InputSpec(height=16, width=16), rotation_degrees=90)
    digest, missing = done.stdout.splitlines()
    assert digest == hashlib.sha256(here.tobytes()).hexdigest()
    assert missing == "No module named 'PIL'"


def test_an_array_that_fits_loads_no_pillow() -> None:
    script = """
import sys
import numpy as np
from offramp.bundle import InputSpec
from offramp.images import load_image
load_image(np.zeros((4, 4, 3), np.uint8), InputSpec(height=4, width=4))
print("PIL" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"
