"""The test vectors: what is written is read back, and nothing else is read at all."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from offramp.bundle import Bundle, Manifest, describe_file, encode_vectors, write_bundle
from offramp.errors import BundleError, ShapeError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike

Parts = tuple[Manifest, dict[str, bytes]]


def test_vectors_round_trip(bundle: Bundle, bundle_parts: Parts) -> None:
    vectors = bundle.vectors()
    again = encode_vectors(vectors.images, dict(reversed(list(vectors.logits.items()))))
    assert again == bundle_parts[1]["vectors.npz"]
    with np.load(bundle.path / "vectors.npz") as arrays:
        assert sorted(arrays) == ["images", "logits/litert/float32", "logits/litert/int8"]
        np.testing.assert_array_equal(arrays["images"], vectors.images)
    with pytest.raises(ShapeError, match="expected uint8 with 4 axes"):
        encode_vectors(np.zeros((1, 2, 2, 3)), {})
    with pytest.raises(ShapeError, match="expected float32 with 3 axes"):
        encode_vectors(vectors.images, {"a/b": np.zeros((1, 2, 3))})


IMAGES = np.zeros((2, 12, 12, 3), np.uint8)
LOGITS = np.zeros((3, 2, 5), np.float32)
BOTH = {"litert/float32": LOGITS, "litert/int8": LOGITS}


@pytest.mark.parametrize(
    ("images", "logits", "message"),
    [
        (IMAGES[:, 1:], BOTH, r"images have .* shape \(2, 11, 12, 3\)"),
        (IMAGES[:0], dict.fromkeys(BOTH, LOGITS[:, :0]), r"shape \(0, 12, 12, 3\)"),
        (IMAGES, {"litert/int8": LOGITS}, "holds .*, expected .*litert/float32"),
        (IMAGES, BOTH | {"litert/float16": LOGITS}, "holds .*litert/float16.*, expected"),
        (IMAGES, BOTH | {"litert/int8": LOGITS[1:]}, r"shape \(2, 2, 5\)"),
        (IMAGES, BOTH | {"litert/int8": LOGITS[:, :1]}, r"shape \(3, 1, 5\)"),
        (IMAGES, BOTH | {"litert/int8": LOGITS + np.float32("nan")}, "expected finite"),
    ],
)
def test_vectors_that_do_not_fit(
    tmp_path: Path,
    bundle_parts: Parts,
    images: ArrayLike,
    logits: dict[str, ArrayLike],
    message: str,
) -> None:
    manifest, files = bundle_parts
    data = encode_vectors(images, logits)
    changed = msgspec.structs.replace(manifest, vectors=describe_file("vectors.npz", data))
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "made", changed, {**files, "vectors.npz": data})


def _npy(array: ArrayLike) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


SOUND = {
    "images.npy": _npy(IMAGES),
    "logits/litert/float32.npy": _npy(LOGITS),
    "logits/litert/int8.npy": _npy(LOGITS),
}
SHAPE = b"(2, 12, 12, 3), }"


def _npz(images: bytes, kind: int = zipfile.ZIP_STORED) -> bytes:
    """A sound file but for the images."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, member in (SOUND | {"images.npy": images}).items():
            archive.writestr(zipfile.ZipInfo(name), member, kind)
    return file.getvalue()


def _header(old: bytes, new: bytes) -> bytes:
    """The images with something else in the header, which keeps its length."""
    member = SOUND["images.npy"]
    start, end = member.index(old), member.index(b"\n")
    changed = member[:start] + new + member[start + len(old) : end].rstrip()
    assert len(changed) <= end
    return changed.ljust(end) + member[end:]


def _overlapping() -> bytes:
    """Many names for the same bytes, so that a small file fills a large memory."""
    data = bytearray(_npz(SOUND["images.npy"]))
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x", "cannot be read: not a sound zip"),
        (b"PK\x05\x06" + bytes(18), r"holds \[\], expected"),
        (_npz(SOUND["images.npy"], zipfile.ZIP_DEFLATED), "is compressed"),
        (_npz(SOUND["images.npy"])[:-30], "cannot be read"),
        (_overlapping(), "two descriptions"),
        (_npz(_npy(IMAGES.astype(np.float64))), r"dtype <f8, .* expected \|u1"),
        (_npz(_npy(IMAGES.astype(">u2"))), r"dtype >u2"),
        (_npz(_npy(np.asfortranarray(IMAGES + 1))), "Fortran order, expected .* C order"),
        # What numpy would unpickle, if it were asked to.
        (_npz(_npy(np.array([{"a": 1}], dtype=object))), r"dtype \|O"),
        (_npz(b"\x80\x04N."), "expected a plain array"),
        (_npz(b""), "expected a plain array"),
        # Headers that numpy would evaluate.
        (_npz(_header(SHAPE, b"((((((((((((((()))))))))))))))")), "expected a plain array"),
        (_npz(_header(SHAPE, b"__import__('os').getpid()")), "expected a plain array"),
        (_npz(_header(SHAPE, b"(-2, 12, 12, 3), }")), "expected a plain array"),
        (_npz(_header(b"'|u1'", b"[('a', '|u1')]")), "expected a plain array"),
        (_npz(_header(b"\x01\x00v", b"\x02\x00v")), "expected a plain array"),
        (_npz(_header(b"v\x00{", b"\xff\xff{")), "after a header of 65535"),
        # Terabytes, claimed by a few bytes.
        (_npz(_header(SHAPE, b"(9999999999, 12, 12, 3), }")), r"hold 864 bytes .* expected 43199"),
        (_npz(_header(SHAPE, b"(99999999999999999999, 12, 12, 3), }")), "expected a plain array"),
        (_npz(_npy(IMAGES)[:-1]), "hold 863 bytes"),
        (_npz(_npy(IMAGES) + b"x"), "hold 865 bytes"),
    ],
)
def test_vectors_that_are_no_vectors(
    tmp_path: Path, bundle_parts: Parts, data: bytes, message: str
) -> None:
    manifest, files = bundle_parts
    changed = msgspec.structs.replace(manifest, vectors=describe_file("vectors.npz", data))
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "made", changed, {**files, "vectors.npz": data})


def test_the_attacks_start_from_a_sound_file(tmp_path: Path, bundle_parts: Parts) -> None:
    manifest, files = bundle_parts
    data = _npz(_header(SHAPE, SHAPE))
    changed = msgspec.structs.replace(manifest, vectors=describe_file("vectors.npz", data))
    made = write_bundle(tmp_path / "made", changed, {**files, "vectors.npz": data})
    np.testing.assert_array_equal(made.vectors().images, IMAGES)
