"""Of several pictures in one file the first is taken."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offramp.bundle import InputSpec
from offramp.errors import ImageError
from offramp.images import load_image

SPEC = InputSpec(height=6, width=8)
RED = Image.new("RGB", (8, 6), (255, 0, 0))
BLUE = Image.new("RGB", (8, 6), (0, 0, 255))


def _file(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    RED.save(file, kind, append_images=[BLUE], **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {"save_all": True}),
        ("PNG", {"save_all": True, "default_image": True}),
        ("WEBP", {"save_all": True, "lossless": True}),
    ],
)
def test_animations(kind: str, options: dict[str, Any]) -> None:
    data = _file(kind, **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) >= 2 or options.get("default_image")
    assert (load_image(data, SPEC) == [255, 0, 0]).all()


def test_several_photos_in_one_jpeg() -> None:
    """What phones write for depth maps and high dynamic range."""
    data = _file("MPO", save_all=True, quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    loaded = load_image(data, SPEC).astype(int)
    assert np.abs(loaded - [255, 0, 0]).max() <= 4


def test_a_damaged_index_of_photos_does_not_matter() -> None:
    data = bytearray(_file("MPO", save_all=True, quality=95))
    place = data.index(b"MPF\0") + 4
    data[place + 4 : place + 8] = b"\xff" * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(bytes(data), SPEC).astype(int)
    assert np.abs(loaded - [255, 0, 0]).max() <= 4


def test_an_animation_that_claims_to_be_huge() -> None:
    """The canvas is stated in the header; no frame of it is decoded."""
    frame = io.BytesIO()
    Image.new("RGB", (1, 1)).save(frame, "WEBP", lossless=True)
    pixel = bytes(12) + b"\x0a\0\0\0" + frame.getvalue()[12:]
    for side in (9000, 16383):
        extended = bytes([2, 0, 0, 0]) + 2 * struct.pack("<I", side - 1)[:3]
        chunks = b"WEBP"
        for name, body in ((b"VP8X", extended), (b"ANIM", bytes(6)), (b"ANMF", pixel)):
            chunks += name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
        with pytest.raises(ImageError, match=r"too large|pixels"):
            load_image(b"RIFF" + struct.pack("<I", len(chunks)) + chunks, SPEC)
