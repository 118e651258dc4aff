"""The orientation of a photo: one EXIF entry, and nothing else."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from offramp.bundle import InputSpec
from offramp.images import load_image

WIDE = InputSpec(height=2, width=4)
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
HALF_TURN = PIXELS[::-1, ::-1]


def _exif(entries: list[bytes], order: str = "<", directory: int = 8) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}I", directory) + bytes(directory - 8)
    return head + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)


def _entry(tag: int, kind: int, count: int, value: int, order: str = "<") -> bytes:
    field = struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
    return struct.pack(f"{order}HHI", tag, kind, count) + field


def _png(exif: bytes, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG", exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mark", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("kind", [3, 4])
def test_entry_of_the_first_directory(order: str, mark: bytes, kind: int) -> None:
    exif = _exif(
        [_entry(0x010F, 3, 1, 9, order), _entry(0x0112, kind, 1, 3, order)], order, directory=12
    )
    np.testing.assert_array_equal(load_image(_png(mark + exif), WIDE), HALF_TURN)


@pytest.mark.parametrize(
    "exif",
    [
        _exif([]),
        _exif([_entry(0x0112, 3, 1, 0)]),
        _exif([_entry(0x0112, 3, 1, 9)]),
        _exif([_entry(0x0112, 3, 2, 3)]),
        _exif([_entry(0x0112, 2, 1, 3)]),
        _exif([_entry(0x0112, 3, 1, 3)])[:18],
        _exif([_entry(0x0112, 3, 1, 3)]).replace(b"II*\0", b"II+\0"),
        b"MM\0*" + struct.pack(">I", 2**32 - 1),
        b"II*\0",
    ],
)
def test_whatever_else_is_upright(exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_image(_png(exif), WIDE), PIXELS)


@given(st.binary(max_size=60))
def test_damaged_data_is_upright_or_a_turn(data: bytes) -> None:
    picture = Image.fromarray(PIXELS)
    picture.info["exif"] = b"II*\0\x08\0\0\0" + data
    loaded = load_image(picture, InputSpec(height=4, width=4))
    assert loaded.shape == (4, 4, 3)


def test_xmp_does_not_turn() -> None:
    """Half of the decoders of this world do not read it."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="3"/></x:xmpmeta>'
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "WEBP", lossless=True, xmp=xmp)
    opened = Image.open(io.BytesIO(file.getvalue()))
    assert opened.getexif()[0x0112] == 3, "Pillow itself would turn it"
    np.testing.assert_array_equal(load_image(file.getvalue(), WIDE), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_formats_that_carry_it(kind: str, orientation: int) -> None:
    """As Pillow turns it, which test_load_image.py compares with numpy."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    pixels = np.repeat(np.repeat(PIXELS * 10, 8, axis=0), 8, axis=1)
    Image.fromarray(pixels).save(file, kind, exif=exif, quality=95)
    opened = Image.open(io.BytesIO(file.getvalue()))
    expected = np.asarray(ImageOps.exif_transpose(opened))
    spec = InputSpec(height=expected.shape[0], width=expected.shape[1])
    np.testing.assert_array_equal(load_image(file.getvalue(), spec), expected)
