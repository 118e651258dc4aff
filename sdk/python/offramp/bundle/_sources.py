"""Where a bundle's bytes come from: a folder, or a zip with stored members only."""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
from abc import ABC, abstractmethod
from typing import IO, TYPE_CHECKING, final

from offramp.errors import BundleError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

__all__ = ["MANIFEST", "FolderSource", "Source", "ZipSource", "is_leftover", "open_source"]

MANIFEST = "manifest.json"

# What a process killed while it wrote the manifest leaves behind; nothing ever reads it.
_LEFTOVER = re.compile(r"\.manifest\.json\.[0-9a-f]{12}\.part")


class Source(ABC):
    """Bytes by name; nothing is interpreted here."""

    @abstractmethod
    def check_members(self, listed: Collection[str]) -> None:
        """Refuse anything but the manifest and the listed files.

        Args:
            listed: Paths of the files the manifest lists.

        Raises:
            IntegrityError: A file is missing or unlisted, or is a link or no plain file.
        """

    @abstractmethod
    def read(self, path: str, largest_bytes: int) -> bytes:
        """Read a file, but never more than one byte beyond what is allowed.

        Raises:
            IntegrityError: The file is missing, or is no plain file.
        """


def is_leftover(name: str) -> bool:
    """Whether a file in a bundle's folder is a manifest that a killed process did not finish."""
    return _LEFTOVER.fullmatch(name) is not None


def open_source(path: Path) -> Source:
    """The source of a bundle at a path.

    Raises:
        BundleError: Nothing is there, or it is neither a folder nor a zip.
    """
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return ZipSource(path)
    raise BundleError(f"no bundle at {path}; expected a folder or a zip that `offramp export` made")


@final
class FolderSource(Source):
    """A folder on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check_members(self, listed: Collection[str]) -> None:
        """Walk the folder, following nothing."""
        folders = {
            "/".join(path.split("/")[:depth])
            for path in listed
            for depth in range(1, path.count("/") + 1)
        }
        found: set[str] = set()
        waiting = [""]
        while waiting:
            inside = waiting.pop()
            with os.scandir(self._path / inside) as entries:
                for entry in entries:
                    name = f"{inside}/{entry.name}" if inside else entry.name
                    if entry.is_symlink():
                        raise IntegrityError(f"{name} is a link; a bundle holds plain files only")
                    if entry.is_dir(follow_symlinks=False):
                        if name not in folders:
                            raise IntegrityError(f"folder {name} is not listed in the manifest")
                        waiting.append(name)
                    elif not entry.is_file(follow_symlinks=False):
                        raise IntegrityError(f"{name} is no plain file")
                    elif not is_leftover(name):
                        found.add(name)
        _compare(found, listed)

    def read(self, path: str, largest_bytes: int) -> bytes:
        """Open without following a link or waiting for a pipe, then read."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path / path, flags)
        except OSError as error:
            raise IntegrityError(
                f"{path} of bundle {self._path} cannot be read: {error.strerror}"
            ) from error
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise IntegrityError(f"{path} is no plain file")
            return file.read(largest_bytes + 1)


@final
class ZipSource(Source):
    """A zip whose members are stored one after the other, without gaps or tricks.

    Nothing is ever decompressed, so there is no ratio to abuse, and a member has one name, one
    place and one size wherever a reader looks for them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive, path.open("rb") as file:
                self._members = {info.filename for info in _stored_members(archive, file)}
        # zipfile says NotImplementedError of compressions and versions that it does not know.
        except (zipfile.BadZipFile, NotImplementedError, OSError, struct.error) as error:
            raise IntegrityError(
                f"{path} is neither a folder nor a sound zip ({error}); expected a bundle"
            ) from error

    def check_members(self, listed: Collection[str]) -> None:
        """Compare the zip's directory with the list."""
        _compare(self._members, listed)

    def read(self, path: str, largest_bytes: int) -> bytes:
        """Read one member."""
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(path) as member:
                return member.read(largest_bytes + 1)
        except (KeyError, zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise IntegrityError(
                f"{path} of bundle {self._path} cannot be read: {error}"
            ) from error


def _compare(found: Collection[str], listed: Collection[str]) -> None:
    expected = {MANIFEST, *listed}
    if missing := sorted(expected - set(found)):
        raise IntegrityError(f"{missing[0]} is listed in the manifest and is not in the bundle")
    if extra := sorted(set(found) - expected):
        raise IntegrityError(f"{extra[0]} is in the bundle and is not listed in the manifest")


_LOCAL = struct.Struct("<4s5H3I2H")
_ENCRYPTED, _DESCRIPTOR, _UTF8 = 0x1, 0x8, 0x800


def _stored_members(archive: zipfile.ZipFile, file: IO[bytes]) -> list[zipfile.ZipInfo]:
    members = sorted(archive.infolist(), key=lambda info: info.header_offset)
    names = [info.filename for info in members]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise IntegrityError(f"{twice} is twice in the zip, expected once")
    end = 0
    for info in members:
        name = info.filename
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise IntegrityError(f"{name} is compressed; pack bundles without compression (zip -0)")
        if info.flag_bits & ~_UTF8:
            raise IntegrityError(f"{name} is encrypted or streamed; pack bundles with zip -0")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise IntegrityError(f"{name} is a link; a bundle holds plain files only")
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
            name.encode("utf-8"),
        )
        if local != central or info.header_offset != end:
            raise IntegrityError(
                f"{name} has two descriptions in the zip, or hidden bytes before it; pack it anew"
            )
        end = info.header_offset + _LOCAL.size + name_size + extra_size + info.file_size
    if end != archive.start_dir or archive.comment:
        raise IntegrityError("the zip holds bytes that belong to no file; pack it anew")
    return members
