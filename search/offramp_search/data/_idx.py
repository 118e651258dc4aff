"""The idx format of the MNIST family."""

from __future__ import annotations

import gzip
import math
import zlib
from typing import TYPE_CHECKING

import numpy as np

from offramp.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["parse_idx"]

_UINT8 = 8


def parse_idx(compressed: bytes, *, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read a gzip-compressed idx file of unsigned bytes.

    Args:
        compressed: The content of the file.
        name: What to call it in an error.
        shape: What the file must hold.

    Raises:
        DataError: The file is damaged, or holds something else.
    """
    try:
        content = gzip.decompress(compressed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} is damaged ({error}); delete it and run again") from error
    # Two zero bytes, the element type and the number of dimensions make the first 32 bits.
    expected = np.array([_UINT8 << 8 | len(shape), *shape], dtype=">u4").tobytes()
    if content[: len(expected)] != expected or len(content) != len(expected) + math.prod(shape):
        raise DataError(
            f"{name} does not hold {'×'.join(map(str, shape))} unsigned bytes in idx format; "
            f"delete it and run again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=len(expected)).reshape(shape)
