"""Where a bundle's bytes come from: a folder, or a zip with stored members only."""

from __future__ import annotations

import os
import re
import stat
import zlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, final

from offramp._text import shown
from offramp.bundle._stored_zip import LARGEST_MEMBERS, stored_members
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
    def members(self) -> dict[str, int]:
        """Everything there is: path -> size in bytes; a folder's path ends with a slash.

        Raises:
            IntegrityError: Something is a link or no plain file, or there is too much of it.
        """

    @abstractmethod
    def read(self, path: str, largest_bytes: int) -> bytes:
        """Read a file, but never more than one byte beyond what is allowed.

        Raises:
            IntegrityError: The file is missing, or is no plain file.
        """

    @final
    def check_members(self, listed: Collection[str]) -> None:
        """Refuse anything but the manifest, the listed files and their folders.

        Args:
            listed: Paths of the files the manifest lists.

        Raises:
            IntegrityError: A file is missing or unlisted, or is a link or no plain file.
        """
        found = set(self.members())
        folders = {name for name in found if name.endswith("/")}
        parents = {
            path[: place + 1]
            for path in listed
            for place, letter in enumerate(path)
            if letter == "/"
        }
        if extra := sorted(folders - parents):
            raise IntegrityError(f"folder {shown(extra[0][:-1])} is not listed in the manifest")
        expected = {MANIFEST, *listed}
        if missing := sorted(expected - found):
            raise IntegrityError(f"{missing[0]} is listed in the manifest and is not in the bundle")
        if extra := sorted(found - folders - expected):
            raise IntegrityError(
                f"{shown(extra[0])} is in the bundle and is not listed in the manifest"
            )


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

    def members(self) -> dict[str, int]:
        """Walk the folder, following nothing."""
        found: dict[str, int] = {}
        waiting = [""]
        try:
            while waiting:
                inside = waiting.pop()
                with os.scandir(self._path / inside) as entries:
                    for entry in entries:
                        name = f"{inside}{entry.name}"
                        if len(found) >= LARGEST_MEMBERS:
                            raise IntegrityError(
                                f"{self._path} holds more than {LARGEST_MEMBERS} files; "
                                "expected those of a bundle"
                            )
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(f"{name}/")
                            found[f"{name}/"] = 0
                        elif not is_leftover(name):
                            found[name] = _plain_size(entry, name)
        except OSError as error:
            raise IntegrityError(f"bundle {self._path} cannot be read: {error.strerror}") from error
        return found

    def read(self, path: str, largest_bytes: int) -> bytes:
        """Open without following a link or waiting for a pipe, then read."""
        return _read(self._path / path, os.O_NOFOLLOW, 0, largest_bytes + 1, path, self._path)


def _plain_size(entry: os.DirEntry[str], name: str) -> int:
    if entry.is_symlink():
        raise IntegrityError(f"{shown(name)} is a link; a bundle holds plain files only")
    if not entry.is_file(follow_symlinks=False):
        raise IntegrityError(f"{shown(name)} is no plain file")
    return entry.stat(follow_symlinks=False).st_size


@final
class ZipSource(Source):
    """A zip whose members are stored plainly; see ``stored_members``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._members = stored_members(file)
        except (OSError, IntegrityError) as error:
            raise IntegrityError(
                f"{path} is neither a folder nor a bundle's zip: {error}"
            ) from error

    def members(self) -> dict[str, int]:
        """The zip's directory, as it was when it was checked."""
        return {name: member.size_bytes for name, member in self._members.items()}

    def read(self, path: str, largest_bytes: int) -> bytes:
        """Read one member where the checked directory said it is; the zip is not parsed again."""
        member = self._members.get(path)
        if member is None:
            raise IntegrityError(f"{path} is not in the bundle {self._path}")
        wanted = min(member.size_bytes, largest_bytes + 1)
        data = _read(self._path, 0, member.start, wanted, path, self._path)
        if wanted == member.size_bytes and zlib.crc32(data) != member.crc32:
            raise IntegrityError(
                f"{path} of bundle {self._path} cannot be read: its CRC-32 is not the one that the "
                "zip lists; copy the bundle anew"
            )
        return data


def _read(file: Path, flags: int, start: int, size_bytes: int, path: str, bundle: Path) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise IntegrityError(f"{path} is no plain file")
            # Memory is taken for what is there, not for what a manifest says.
            size_bytes = min(size_bytes, max(status.st_size - start, 0) + 1)
            with os.fdopen(descriptor, "rb", closefd=False) as opened:
                opened.seek(start)
                return opened.read(size_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise IntegrityError(
            f"{path} of bundle {bundle} cannot be read: {error.strerror}"
        ) from error
