"""Zips whose members are stored one after the other, without gaps or tricks.

Nothing is ever decompressed, so there is no ratio to abuse, and a member has one name, one place
and one size wherever a reader looks for them.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections import Counter
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, final

from offramp._text import shown
from offramp.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LARGEST_MEMBERS", "StoredMember", "stored_members"]

LARGEST_MEMBERS = 4096
"""A bundle holds tens of files; a directory of millions would only exhaust memory."""

_LARGEST_DIRECTORY_BYTES = 2**20
_END = struct.Struct("<4s4H2IH")
_LOCAL = struct.Struct("<4s5H3I2H")
_UTF8 = 0x800  # the one flag that changes neither the data nor its place


@final
@dataclass(frozen=True, slots=True)
class StoredMember:
    """One member: its bytes are ``[start, start + size_bytes)`` of the zip."""

    start: int
    size_bytes: int
    crc32: int


def stored_members(file: IO[bytes]) -> dict[str, StoredMember]:
    """The members of a zip by name, if it holds them plainly and nothing else.

    Args:
        file: The open zip; only its directory and the members' headers are read.

    Raises:
        IntegrityError: It is no zip, is compressed, encrypted, streamed or split, holds a name
            twice or a link, describes a member in two ways, or hides bytes.
    """
    start = _directory(file)
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.start_dir != start:
                raise IntegrityError("the zip has two directories; pack it anew")
            return dict(_plain_members(archive.infolist(), file, start))
    # zipfile says NotImplementedError of compressions and versions that it does not know, and
    # UnicodeDecodeError, a ValueError, of names that are not what their flag says.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        if isinstance(error, IntegrityError):
            raise
        raise IntegrityError(f"not a sound zip: {error}; pack it anew") from error


def _directory(file: IO[bytes]) -> int:
    """Where the directory begins, by the record that must be the last 22 bytes."""
    size_bytes = file.seek(0, io.SEEK_END)
    if size_bytes < _END.size:
        raise IntegrityError("not a sound zip: too short; expected a bundle, packed with zip -0")
    file.seek(size_bytes - _END.size)
    signature, disk, disks, here, members, length, start, comment = _END.unpack(
        file.read(_END.size)
    )
    if signature != b"PK\x05\x06" or comment:
        raise IntegrityError(
            "not a sound zip: it does not end with its directory, so there are bytes that belong "
            "to no file; pack it anew"
        )
    if disk or disks or here != members or start + length + _END.size != size_bytes:
        raise IntegrityError(
            "the zip is split, or holds bytes that belong to no file; pack it anew"
        )
    if members > LARGEST_MEMBERS or length > _LARGEST_DIRECTORY_BYTES:
        raise IntegrityError(
            f"the zip lists {members} members in {length} bytes, expected at most "
            f"{LARGEST_MEMBERS} in {_LARGEST_DIRECTORY_BYTES}"
        )
    return int(start)


def _plain_members(
    infos: list[zipfile.ZipInfo], file: IO[bytes], directory: int
) -> Iterator[tuple[str, StoredMember]]:
    twice = [name for name, count in Counter(info.filename for info in infos).items() if count > 1]
    if twice:
        raise IntegrityError(f"{shown(twice[0])} is twice in the zip, expected once")
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        name = shown(info.filename)
        if not name:
            raise IntegrityError("the zip holds a member without a name; pack it anew")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise IntegrityError(f"{name} is compressed; pack bundles without compression (zip -0)")
        if info.flag_bits & ~_UTF8:
            raise IntegrityError(f"{name} is encrypted or streamed; pack bundles with zip -0")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind == stat.S_IFLNK:
            raise IntegrityError(f"{name} is a link; a bundle holds plain files only")
        if info.is_dir() and info.file_size:
            raise IntegrityError(f"{name} is a folder that holds bytes; pack it anew")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise IntegrityError(f"{name} is no plain file")
        file.seek(info.header_offset)
        signature, _, flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL.unpack(
            file.read(_LOCAL.size)
        )
        local = (signature, flags, method, crc, packed, size, file.read(name_size))
        central = (
            b"PK\x03\x04",
            info.flag_bits,
            zipfile.ZIP_STORED,
            info.CRC,
            info.file_size,
            info.file_size,
            info.filename.encode("utf-8"),
        )
        if local != central or info.header_offset != end:
            raise IntegrityError(
                f"{name} has two descriptions in the zip, or hidden bytes before it; pack it anew"
            )
        start = info.header_offset + _LOCAL.size + name_size + extra_size
        end = start + info.file_size
        yield info.filename, StoredMember(start, info.file_size, info.CRC)
    if end != directory:
        raise IntegrityError("the zip holds bytes that belong to no file; pack it anew")
