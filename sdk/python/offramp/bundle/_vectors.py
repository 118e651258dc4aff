"""The test vectors of a bundle: images, and what every program answered to them."""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp.errors import BundleError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from offramp.bundle._manifest import Manifest

__all__ = ["Vectors", "check_vectors", "decode_vectors", "encode_vectors"]

_IMAGES = "images"
_LOGITS = "logits/"


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


def decode_vectors(data: bytes) -> Vectors:
    """Read what ``encode_vectors`` wrote; nothing is decompressed or unpickled.

    Raises:
        BundleError: The bytes are not a stored ``.npz`` of the expected arrays.
    """
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
                    raise BundleError(
                        f"vectors.npz: {info.filename} is compressed, expected stored"
                    )
                name = info.filename.removesuffix(".npy")
                dtype = np.uint8 if name == _IMAGES else np.float32
                arrays[name] = _array(info.filename, archive.read(info), np.dtype(dtype))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"vectors.npz cannot be read: {error}") from error
    images = arrays.pop(_IMAGES, None)
    if images is None or not all(name.startswith(_LOGITS) for name in arrays):
        raise BundleError(
            f"vectors.npz holds {sorted(arrays)}, expected 'images' and 'logits/RUNTIME/PRECISION'"
        )
    return Vectors(images, {name.removeprefix(_LOGITS): array for name, array in arrays.items()})


def check_vectors(vectors: Vectors, manifest: Manifest) -> None:
    """Compare the arrays with the manifest.

    Raises:
        BundleError: A program or a shape does not fit.
    """
    spec = manifest.input
    if vectors.images.ndim != 4 or vectors.images.shape[1:] != (spec.height, spec.width, 3):
        raise BundleError(
            f"vectors.npz: images have shape {vectors.images.shape}, "
            f"expected (n, {spec.height}, {spec.width}, 3)"
        )
    names = {program.name for program in manifest.programs}
    if set(vectors.logits) != names:
        raise BundleError(
            f"vectors.npz has logits of {sorted(vectors.logits)}, expected {sorted(names)}"
        )
    shape = (len(manifest.stages), len(vectors.images), len(manifest.labels))
    for name, logits in vectors.logits.items():
        if logits.shape != shape or not np.isfinite(logits).all():
            raise BundleError(
                f"vectors.npz: logits of {name} have shape {logits.shape}, "
                f"expected finite numbers of shape {shape}"
            )


def _array(name: str, data: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    # The sizes are compared before memory is taken, so a header cannot claim terabytes.
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise BundleError(f"vectors.npz: {name} is in another format, expected npy version 1.0")
    shape, fortran, found = np.lib.format.read_array_header_1_0(stream)
    body = data[stream.tell() :]
    if found != dtype or fortran or len(body) != math.prod(shape) * dtype.itemsize:
        raise BundleError(
            f"vectors.npz: {name} holds {len(body)} bytes of {found} {shape}, "
            f"expected {dtype} in C order"
        )
    return np.frombuffer(body, dtype=dtype).reshape(shape)
