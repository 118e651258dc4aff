"""Make the image vectors: PNG files, and what the input of stage 0 must then be.

The pixels are known before they become a file, and the expected result comes from the numpy
reference alone: neither a decoder nor Pillow takes part.

    .venv/bin/python sdk/conformance/make_images.py
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from offramp.bundle import InputSpec
from offramp.images import (
    crop_box,
    nearest_positions,
    region_box,
    resample,
    resample_weights,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "images"
KERNELS: tuple[Literal["bilinear", "bicubic", "box", "nearest"], ...] = (
    "bilinear",
    "bicubic",
    "box",
    "nearest",
)
SIZES = ((8, 8), (24, 32), (17, 5), (1, 1), (40, 64))


@dataclass(frozen=True)
class Input:
    """A file, and the upright RGB pixels it stands for."""

    png: bytes
    pixels: NDArray[np.uint8]


def noise(height: int, width: int, channels: int, seed: int = 0) -> NDArray[np.uint16]:
    """16-bit noise from whole numbers alone, so that it is the same everywhere for ever."""
    count = height * width * channels
    value = np.arange(count, dtype=np.uint64) + np.uint64(seed * 1_000_003 + 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return (value >> np.uint64(48)).astype(np.uint16).reshape(height, width, channels)


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """Something like a photo: slopes, edges, and a little noise."""
    y, x = np.mgrid[:height, :width]
    slopes = [7 * x + 3 * y, 255 - 5 * x + 2 * y, 11 * ((x // 5 + y // 3) % 2) + 4 * y]
    pixels = np.stack(slopes, axis=-1) % 256 + noise(height, width, 3) % 23
    return np.clip(pixels, 0, 255).astype(np.uint8)


def png(samples: NDArray[Any], colour_type: int, bits: int, **chunks: bytes) -> bytes:
    """A PNG file without filters and compression.

    Args:
        samples: ``(height, width, channels)``.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha.
        bits: Of each sample.
        chunks: Further chunks by name; those named ``after_...`` follow the pixels.
    """
    height, width = samples.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    elif bits == 8:
        rows = [row.astype(np.uint8).tobytes() for row in samples]
    else:
        rows = [np.packbits(row.astype(bool)).tobytes() for row in samples]
    body = zlib.compress(b"".join(b"\0" + row for row in rows), 0)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header)]
    parts += [(name.encode(), data) for name, data in chunks.items() if "_" not in name]
    parts += [(b"IDAT", body)]
    parts += [(name[-4:].encode(), data) for name, data in chunks.items() if "_" in name]
    parts += [(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def exif(orientation: int) -> bytes:
    """A TIFF directory of one entry."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def stored(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Upright pixels as a file of that orientation stores them."""
    swapped = pixels.transpose(1, 0, 2)
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: swapped,
        6: swapped[::-1],
        7: swapped[::-1, ::-1],
        8: swapped[:, ::-1],
    }[orientation]


def make_inputs() -> dict[str, Input]:
    """All files, by name."""
    rgb = photo(37, 53)
    inputs = {
        "photo": Input(png(rgb, 2, 8), rgb),
        "small": Input(png(photo(9, 7), 2, 8), photo(9, 7)),
        "tall": Input(png(photo(150, 11), 2, 8), photo(150, 11)),
        "wide": Input(png(photo(5, 330), 2, 8), photo(5, 330)),
    }
    hard = ((noise(33, 41, 3, 1) & 1) * 255).astype(np.uint8)
    inputs["black_and_white_noise"] = Input(png(hard, 2, 8), hard)
    upright = photo(12, 20)
    for orientation in range(1, 9):
        turned = stored(upright, orientation)
        data = png(turned, 2, 8, eXIf=exif(orientation))
        inputs[f"orientation_{orientation}"] = Input(data, upright)
    inputs["orientation_9"] = Input(png(upright, 2, 8, eXIf=exif(9)), upright)
    return inputs | _colours()


def _colours() -> dict[str, Input]:
    height, width = 13, 19
    wide = noise(height, width, 4, 2)
    narrow = (wide >> 8).astype(np.uint8)
    grey, alpha = narrow[..., :1], narrow[..., 3:].astype(np.int64)
    palette = narrow.reshape(-1)[: 3 * 16].reshape(16, 3)
    index = grey % 16
    see_through = np.arange(16, dtype=np.uint8) * 17
    bilevel = grey & 1

    def spread(values: NDArray[Any]) -> NDArray[np.uint8]:
        return np.repeat(values, 3, axis=-1).astype(np.uint8)

    def on_black(colours: NDArray[Any], opacity: NDArray[Any]) -> NDArray[np.uint8]:
        mixed: NDArray[np.int64] = (colours.astype(np.int64) * opacity + 127) // 255
        return mixed.astype(np.uint8)

    key = narrow[4, 6, :3]
    keyed = np.where((narrow[..., :3] == key).all(axis=-1, keepdims=True), 0, narrow[..., :3])
    first = png(narrow[..., :3], 2, 8)
    second = np.zeros((height, width, 3), np.uint8)
    control = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0)
    later = struct.pack(">I", 1) + control[4:]
    frame = zlib.compress(b"".join(b"\0" + row.tobytes() for row in second), 0)
    animated = png(
        narrow[..., :3],
        2,
        8,
        acTL=struct.pack(">II", 2, 0),
        fcTL=control,
        after_fcTL=later,
        later_fdAT=struct.pack(">I", 2) + frame,
    )
    return {
        "grey": Input(png(grey, 0, 8), spread(grey)),
        "grey_1_bit": Input(png(bilevel, 0, 1), spread(bilevel * 255)),
        "grey_16_bit": Input(png(wide[..., :1], 0, 16), spread(grey)),
        "grey_alpha": Input(png(narrow[..., [0, 3]], 4, 8), on_black(spread(grey), alpha)),
        "grey_alpha_16_bit": Input(png(wide[..., [0, 3]], 4, 16), on_black(spread(grey), alpha)),
        "palette": Input(png(index, 3, 8, PLTE=palette.tobytes()), palette[index[..., 0]]),
        "palette_alpha": Input(
            png(index, 3, 8, PLTE=palette.tobytes(), tRNS=see_through.tobytes()),
            on_black(palette[index[..., 0]], see_through[index].astype(np.int64)),
        ),
        "rgb_16_bit": Input(png(wide[..., :3], 2, 16), narrow[..., :3]),
        "rgb_alpha": Input(png(narrow, 6, 8), on_black(narrow[..., :3], alpha)),
        "rgb_alpha_16_bit": Input(png(wide, 6, 16), on_black(narrow[..., :3], alpha)),
        "rgb_transparent_colour": Input(
            png(narrow[..., :3], 2, 8, tRNS=key.astype(">u2").tobytes()), keyed.astype(np.uint8)
        ),
        "rgb_with_gamma": Input(
            png(narrow[..., :3], 2, 8, gAMA=struct.pack(">I", 100_000)), narrow[..., :3]
        ),
        "animated": Input(animated, narrow[..., :3]),
        "still": Input(first, narrow[..., :3]),
    }


def make_cases(inputs: dict[str, Input]) -> list[dict[str, Any]]:
    """What to do with which file."""
    cases: list[dict[str, Any]] = []

    def add(name: str, height: int, width: int, resize: str, kernel: str, **more: Any) -> None:
        cases.append(
            {
                "input": f"inputs/{name}.png",
                "height": height,
                "width": width,
                "resize": resize,
                "filter": kernel,
                "region": more.get("region"),
                "rotation_degrees": more.get("rotation_degrees", 0),
            }
        )

    for name, kernel, resize in itertools.product(
        ("photo", "small", "black_and_white_noise"), KERNELS, ("cover", "stretch")
    ):
        for height, width in SIZES:
            add(name, height, width, resize, kernel)
    for name, kernel in itertools.product(("tall", "wide"), KERNELS):
        # On "tall" Pillow 13 by itself would scale the columns first.
        add(name, 7, 10, "stretch", kernel)
        add(name, 16, 9, "cover", kernel)
    for width in (35, 47, 57, 210):
        add("wide", 5, width, "stretch", "nearest")
    plain = [name for name in inputs if name.startswith("orientation")]
    for name in [*plain, *_colours()]:
        height, width = inputs[name].pixels.shape[:2]
        add(name, height, width, "stretch", "nearest")
        add(name, 6, 8, "cover", "bilinear")
    regions = (None, (0.25, 0.1, 0.75, 0.9), (0.0, 0.0, 0.01, 0.01), (0.333, 0.5, 1.0, 1.0))
    for region, rotation in itertools.product(regions, (0, 90, 180, 270, -90)):
        for resize in ("cover", "stretch"):
            more = {"region": region, "rotation_degrees": rotation}
            add("photo", 10, 14, resize, "bilinear", **more)
    add("orientation_6", 6, 8, "cover", "bicubic", region=(0.2, 0.1, 0.8, 0.7), rotation_degrees=90)
    return cases


def expect(case: dict[str, Any], pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The input of stage 0, by the numpy reference."""
    if case["region"] is not None:
        left, top, right, bottom = region_box(pixels.shape[1], pixels.shape[0], case["region"])
        pixels = pixels[top:bottom, left:right]
    for _ in range(case["rotation_degrees"] // 90 % 4):
        pixels = pixels.transpose(1, 0, 2)[:, ::-1]
    spec = InputSpec(
        height=case["height"], width=case["width"], resize=case["resize"], filter=case["filter"]
    )
    left, top, right, bottom = crop_box(pixels.shape[1], pixels.shape[0], spec)
    return resample(pixels[top:bottom, left:right], spec.width, spec.height, spec.filter)


def make_weights() -> list[dict[str, Any]]:
    """Whole rows of weights, for whoever has to find out where a binding goes astray."""
    rows = []
    for (size, wanted), kernel in itertools.product(((7, 3), (3, 7), (10, 10), (53, 8)), KERNELS):
        row: dict[str, Any] = {"size": size, "wanted": wanted, "filter": kernel}
        if kernel == "nearest":
            row["positions"] = nearest_positions(size, wanted).tolist()
        else:
            first, weights = resample_weights(size, wanted, kernel)
            row |= {"first": first.tolist(), "weights": weights.tolist()}
        rows.append(row)
    return rows


def main() -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    out: Path = parser.parse_args().out
    (out / "inputs").mkdir(parents=True, exist_ok=True)
    inputs = make_inputs()
    for name, file in inputs.items():
        (out / "inputs" / f"{name}.png").write_bytes(file.png)
    expected = b""
    cases = make_cases(inputs)
    for case in cases:
        name = Path(case["input"]).stem
        result = np.ascontiguousarray(expect(case, inputs[name].pixels)).tobytes()
        case |= {"offset": len(expected), "sha256": hashlib.sha256(result).hexdigest()}
        expected += result
    (out / "expected.bin").write_bytes(expected)
    lines = {"cases": cases, "weights": make_weights()}
    text = ",\n".join(
        f'"{part}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]"
        for part, rows in lines.items()
    )
    (out / "index.json").write_text(f'{{"format_version": 1,\n{text}\n}}\n')


if __name__ == "__main__":
    main()
