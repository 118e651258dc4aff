"""Which way up a photo is, from its EXIF data."""

from __future__ import annotations

import struct

__all__ = ["exif_orientation"]

_TAG = 0x0112
_FORMATS = {3: "H", 4: "I"}  # types SHORT and LONG


def exif_orientation(exif: bytes) -> int:
    """The orientation that EXIF data states.

    Read here, and not with Pillow, so that every binding follows one short rule: entry 0x0112 of
    the first directory counts if it is a single SHORT or LONG from 1 to 8. XMP, further
    directories and whatever is damaged do not.

    Args:
        exif: A TIFF structure, with or without the ``Exif`` mark of a JPEG segment before it.

    Returns:
        1 to 8; 1, upright, if nothing else is stated.
    """
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", data, 4)
        (entries,) = struct.unpack_from(f"{order}H", data, directory)
        for entry in range(entries):
            place = directory + 2 + 12 * entry
            tag, kind, count = struct.unpack_from(f"{order}HHI", data, place)
            if tag == _TAG:
                if kind not in _FORMATS or count != 1:
                    return 1
                (value,) = struct.unpack_from(order + _FORMATS[kind], data, place + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        # It ends before what it announces.
        return 1
    return 1
