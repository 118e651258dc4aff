"""Every kind of image becomes the same upright RGB pixels, or is refused in one sentence."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from offramp.bundle import InputSpec
from offramp.errors import ImageError
from offramp.images import crop_box, load_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPEC = InputSpec(height=6, width=8)


@pytest.fixture
def array(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (6, 8, 3), np.uint8)


def _file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})]
)
def test_path_bytes_pil_and_array_agree(
    tmp_path: Path, array: NDArray[np.uint8], kind: str, options: dict[str, Any]
) -> None:
    picture = Image.fromarray(array)
    data = _file(picture, kind, **options)
    path = tmp_path / "image"
    path.write_bytes(data)
    for image in (array, picture, data, path, str(path)):
        loaded = load_image(image, SPEC)
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, array)


def test_jpeg(array: NDArray[np.uint8]) -> None:
    smooth = np.asarray(Image.fromarray(array[:1, :1]).resize((8, 6)))
    loaded = load_image(_file(Image.fromarray(smooth), "JPEG", quality=95), SPEC)
    assert np.abs(loaded.astype(int) - smooth).max() <= 3


def test_an_array_that_fits_is_not_copied(array: NDArray[np.uint8]) -> None:
    assert load_image(array, SPEC) is array


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(array: NDArray[np.uint8], orientation: int) -> None:
    """The file stores the pixels turned, and the tag says how to turn them back."""
    turn_away = {
        1: lambda pixels: pixels,
        2: lambda pixels: pixels[:, ::-1],
        3: lambda pixels: pixels[::-1, ::-1],
        4: lambda pixels: pixels[::-1],
        5: lambda pixels: pixels.transpose(1, 0, 2),
        6: lambda pixels: np.rot90(pixels, 1),
        7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: lambda pixels: np.rot90(pixels, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(turn_away[orientation](array)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _file(stored, exif=exif)
    np.testing.assert_array_equal(load_image(data, SPEC), array)
    np.testing.assert_array_equal(load_image(Image.open(io.BytesIO(data)), SPEC), array)


def test_grey_and_bilevel() -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    expected = np.repeat(grey[..., None], 3, axis=-1)
    np.testing.assert_array_equal(load_image(_file(Image.fromarray(grey)), SPEC), expected)
    bits = Image.fromarray(grey > 100)
    assert bits.mode == "1"
    np.testing.assert_array_equal(load_image(_file(bits), SPEC)[..., 0], (grey > 100) * 255)


def test_sixteen_bits_keep_the_upper_eight() -> None:
    values = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    loaded = load_image(_file(Image.fromarray(values)), SPEC)
    np.testing.assert_array_equal(loaded[..., 0], values >> 8)
    big_endian = Image.frombytes("I;16B", (8, 6), values.astype(">u2").tobytes())
    np.testing.assert_array_equal(load_image(big_endian, SPEC), loaded)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "PA"])
def test_transparent_pixels_are_laid_on_black(mode: str) -> None:
    colour = Image.new("RGBA", (8, 6), (200, 200, 200, 255))
    colour.putpixel((0, 0), (200, 200, 200, 0))
    colour.putpixel((1, 0), (200, 200, 200, 128))
    image = colour.convert("P" if mode == "PA" else mode)
    if mode == "PA":
        image.putalpha(colour.getchannel("A"))
    assert image.mode == mode
    loaded = load_image(image, SPEC)
    assert loaded[0, 0].tolist() == [0, 0, 0], "hidden colours must not come back"
    assert loaded[5, 7].tolist() == [200, 200, 200]
    assert abs(int(loaded[0, 1, 0]) - 100) <= (2 if mode == "PA" else 0)


def test_every_grey_at_every_alpha_is_rounded_to_the_nearest() -> None:
    grey, alpha = np.divmod(np.arange(65536, dtype=np.int64), 256)
    pixels = np.stack([grey, grey, grey, alpha], axis=-1).astype(np.uint8).reshape(256, 256, 4)
    expected = np.floor(grey * alpha / 255 + 0.5).reshape(256, 256)
    loaded = load_image(Image.fromarray(pixels), InputSpec(height=256, width=256))
    np.testing.assert_array_equal(loaded[..., 1], expected)


def test_palettes() -> None:
    image = Image.new("P", (8, 6), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert (load_image(_file(image), SPEC) == [40, 50, 60]).all()
    image.putpixel((0, 0), 0)
    for transparency in (0, bytes([0, 255])):
        loaded = load_image(_file(image, transparency=transparency), SPEC)
        assert loaded[0, 0].tolist() == [0, 0, 0]
        assert loaded[0, 1].tolist() == [40, 50, 60]


def test_transparent_colours_without_alpha() -> None:
    image = Image.new("RGB", (8, 6), (9, 8, 7))
    image.putpixel((0, 0), (1, 2, 3))
    loaded = load_image(_file(image, transparency=(1, 2, 3)), SPEC)
    assert loaded[0, 0].tolist() == [0, 0, 0]
    assert loaded[0, 1].tolist() == [9, 8, 7]


def test_print_colours() -> None:
    image = Image.new("CMYK", (8, 6), (0, 255, 255, 0))
    assert (load_image(image, SPEC) == [255, 0, 0]).all()
    loaded = load_image(_file(image, "JPEG", quality=95), SPEC).astype(int)
    assert np.abs(loaded - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX"])
def test_other_modes_that_are_colours(mode: str) -> None:
    image = Image.new("RGB", (8, 6), (250, 10, 20)).convert(mode)
    assert np.abs(load_image(image, SPEC).astype(int) - [250, 10, 20]).max() <= 4


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_modes_without_one_meaning(mode: str) -> None:
    with pytest.raises(ImageError, match=f"has the mode '{mode}'.*convert it to RGB yourself"):
        load_image(Image.new(mode, (8, 6)), SPEC)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((6, 8, 3)), r"float64 \(6, 8, 3\), expected uint8.*scale it to 0..255"),
        (np.zeros((6, 8, 3), np.float32), "float32"),
        (np.zeros((6, 8), np.uint8), r"uint8 \(6, 8\), expected uint8 \(H, W, 3\)"),
        (np.zeros((6, 8, 4), np.uint8), r"\(6, 8, 4\), expected"),
        (np.zeros((1, 6, 8, 3), np.uint8), r"\(1, 6, 8, 3\), expected"),
        (np.zeros((0, 8, 3), np.uint8), "has 8 x 0 pixels"),
        (np.broadcast_to(np.uint8(0), (9000, 9000, 3)), "has 9000 x 9000 pixels"),
        (b"", "the 0 bytes given is no image; expected JPEG, PNG, WEBP, BMP"),
        (b"not an image", "is no image"),
        ("nowhere.png", "nowhere.png cannot be read: No such file"),
        (Path("/"), "cannot be read: Is a directory"),
        (None, "got NoneType"),
        ([[0]], "got list"),
    ],
)
def test_what_is_no_image(image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(image, SPEC)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "TGA", "ICO", "PDF"])
def test_decoders_that_are_never_reached(kind: str) -> None:
    with pytest.raises(ImageError, match="is no image; expected JPEG, PNG, WEBP, BMP"):
        load_image(_file(Image.new("RGB", (32, 32)), kind), SPEC)


def _png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(100))
    chunks = [struct.pack(">I", len(part) - 4) + part for part in (header, body, b"IEND")]
    chunks = [chunk + struct.pack(">I", zlib.crc32(chunk[4:])) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [8200, 10_000, 20_000, 2**31 - 1])
def test_small_files_that_claim_to_be_huge(side: int) -> None:
    """Below, at and above the sizes at which Pillow itself warns and refuses."""
    with pytest.raises(ImageError, match=r"pixels|too large"):
        load_image(_png_header(side, side), SPEC)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_damaged_files_are_refused_or_read(
    array: NDArray[np.uint8], rng: np.random.Generator, kind: str
) -> None:
    data = _file(Image.fromarray(array), kind)
    refused = 0
    for cut in range(0, len(data) - 2, max(1, len(data) // 40)):
        try:
            load_image(data[:cut], SPEC)
        except ImageError:
            refused += 1
    assert refused > 10
    for _ in range(60):
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            assert load_image(bytes(changed), SPEC).shape == (6, 8, 3)
        except ImageError:
            continue


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "box", "nearest"])
@pytest.mark.parametrize("resize", ["stretch", "cover"])
def test_arrays_are_resized_by_the_same_rule(
    rng: np.random.Generator,
    kernel: Literal["bilinear", "bicubic", "box", "nearest"],
    resize: Literal["stretch", "cover"],
) -> None:
    spec = InputSpec(height=6, width=8, resize=resize, filter=kernel)
    array = rng.integers(0, 256, (31, 17, 3), np.uint8)
    from_array = load_image(array, spec)
    np.testing.assert_array_equal(from_array, load_image(_file(Image.fromarray(array)), spec))
    assert from_array.shape == (6, 8, 3)
    turned = load_image(np.ascontiguousarray(array.transpose(1, 0, 2)).transpose(1, 0, 2), spec)
    np.testing.assert_array_equal(from_array, turned)


def test_box_filter_is_the_mean() -> None:
    array = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    spec = InputSpec(height=6, width=8, filter="box")
    # Pillow rounds twice, after each direction.
    blocks = array.reshape(6, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(load_image(array, spec) - blocks).max() <= 1


def test_cover_cuts_the_middle_out_and_stretch_does_not() -> None:
    """A red image with a green frame at the left and right, wider than the input."""
    wide = np.zeros((6, 16, 3), np.uint8)
    wide[:, :4, 1] = wide[:, 12:, 1] = wide[:, 4:12, 0] = 255
    cover = load_image(wide, InputSpec(height=6, width=8, resize="cover"))
    assert (cover == [255, 0, 0]).all(), "no pixel outside of the part may be mixed in"
    stretch = load_image(wide, InputSpec(height=6, width=8, resize="stretch"))
    assert stretch[0, 0].tolist() == [0, 255, 0]
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    cover = load_image(tall, InputSpec(height=8, width=6, resize="cover"))
    assert (cover == [255, 0, 0]).all()


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    wanted=st.tuples(st.integers(1, 600), st.integers(1, 600)),
)
def test_crop_box_is_centred_and_as_large_as_can_be(
    width: int, height: int, wanted: tuple[int, int]
) -> None:
    spec = InputSpec(height=wanted[0], width=wanted[1])
    left, top, right, bottom = crop_box(width, height, spec)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert (right - left == width) or (bottom - top == height)
    assert 0 <= (width - right) - left <= 1
    assert 0 <= (height - bottom) - top <= 1
    # The cut side is within half a pixel of the input's proportions, or a single pixel.
    if right - left < width:
        ideal = height * spec.width / spec.height
        assert right - left == 1 or abs(right - left - ideal) <= 0.5
    elif bottom - top < height:
        ideal = width * spec.height / spec.width
        assert bottom - top == 1 or abs(bottom - top - ideal) <= 0.5
    stretched = InputSpec(height=wanted[0], width=wanted[1], resize="stretch")
    assert crop_box(width, height, stretched) == (0, 0, width, height)
