"""The test vectors of a bundle: images, and what every program answered to them."""

from __future__ import annotations

import io
import math
import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp.bundle._stored_zip import stored_members
from offramp.errors import BundleError, IntegrityError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from offramp.bundle._manifest import Manifest

__all__ = ["Vectors", "decode_vectors", "encode_vectors"]

_IMAGES = "images"
_LOGITS = "logits/"

# Sizes of at most ten digits: a product of four of them is no effort to compute.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)\{'descr': '(?P<dtype>[|<>][a-zA-Z0-9]{1,4})', "
    rb"'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,10}, ?){0,7}(?:\d{1,10})?)\), \} *\n",
    re.DOTALL,
)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Test images and the logits recorded when the bundle was made.

    Attributes:
        images: ``(images, height, width, 3)`` uint8.
        logits: Per program name, ``(exits, images, classes)`` float32.
    """

    images: NDArray[np.uint8]
    logits: Mapping[str, NDArray[np.float32]]


def encode_vectors(images: ArrayLike, logits: Mapping[str, ArrayLike]) -> bytes:
    """Vectors as the bytes of an ``.npz`` file; equal vectors give equal bytes.

    Args:
        images: ``(images, height, width, 3)`` uint8.
        logits: Per program name, ``(exits, images, classes)`` float32.

    Raises:
        ShapeError: An array has another dtype or number of dimensions.
    """
    arrays = {_IMAGES: np.asarray(images)}
    arrays |= {f"{_LOGITS}{name}": np.asarray(logits[name]) for name in sorted(logits)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            dtype, axes = (np.uint8, 4) if name == _IMAGES else (np.float32, 3)
            if array.dtype != dtype or array.ndim != axes:
                raise ShapeError(
                    f"vectors {name!r} are {array.dtype} {array.shape}, "
                    f"expected {np.dtype(dtype)} with {axes} axes"
                )
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            # A ZipInfo of its own carries no date, which would make equal vectors differ.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return file.getvalue()


def decode_vectors(data: bytes, manifest: Manifest) -> Vectors:
    """Read what ``encode_vectors`` wrote; nothing is decompressed, evaluated or unpickled.

    The manifest says which arrays there are, of which dtypes and shapes; only the number of images
    is the file's own, and one for all arrays.

    Args:
        data: The file's content.
        manifest: Of the same bundle.

    Raises:
        BundleError: The bytes are not a stored ``.npz`` of exactly those arrays.
    """
    try:
        members = stored_members(io.BytesIO(data))
    except IntegrityError as error:
        raise BundleError(f"vectors.npz cannot be read: {error}") from error
    names = [f"{_LOGITS}{program.name}" for program in manifest.programs]
    expected = [f"{name}.npy" for name in (_IMAGES, *names)]
    if set(members) != set(expected):
        raise BundleError(f"vectors.npz holds {sorted(members)}, expected {sorted(expected)}")
    bodies = [
        data[members[name].start : members[name].start + members[name].size_bytes]
        for name in expected
    ]
    spec = manifest.input
    images = _array(_IMAGES, bodies[0], np.dtype(np.uint8), (None, spec.height, spec.width, 3))
    shape = (len(manifest.stages), len(images), len(manifest.labels))
    logits = {
        program.name: _array(name, body, np.dtype(np.float32), shape)
        for program, name, body in zip(manifest.programs, names, bodies[1:], strict=True)
    }
    for name, array in logits.items():
        if not np.isfinite(array).all():
            raise BundleError(
                f"vectors.npz: logits of {name} hold NaN or infinity, expected finite"
            )
    return Vectors(images, logits)


def _array(
    name: str, body: bytes, dtype: np.dtype[Any], expected: tuple[int | None, ...]
) -> NDArray[Any]:
    # numpy's own reader evaluates the header as Python literals; this one knows its only spelling.
    header = _HEADER.match(body)
    if header is None:
        raise BundleError(
            f"vectors.npz: {name} begins with {body[:16]!r}, expected a plain array as "
            "npy version 1.0"
        )
    found = header["dtype"].decode()
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    fits = len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected, strict=True)
    )
    if found != dtype.str or header["fortran"] != b"False" or not fits or not all(shape):
        wanted = ", ".join("n" if size is None else str(size) for size in expected)
        order = "Fortran" if header["fortran"] == b"True" else "C"
        raise BundleError(
            f"vectors.npz: {name} have dtype {found}, shape {shape} and {order} order, "
            f"expected {dtype.str}, ({wanted}) and C order"
        )
    values = body[header.end() :]
    length = int.from_bytes(header["length"], "little")
    # The sizes are compared before memory is taken, so a header cannot claim terabytes.
    if length != header.end() - 10 or len(values) != math.prod(shape) * dtype.itemsize:
        raise BundleError(
            f"vectors.npz: {name} hold {len(values)} bytes after a header of {length}, "
            f"expected {math.prod(shape) * dtype.itemsize} for {found} {shape}"
        )
    return np.frombuffer(values, dtype=dtype).reshape(shape)
