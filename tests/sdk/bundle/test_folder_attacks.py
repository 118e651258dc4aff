"""Folders that were tampered with, before and after they were opened."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from offramp.bundle import Bundle
from offramp.errors import BundleError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


PROGRAM = "litert/int8.tflite"
_NOBODY = 65534


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _link_inside(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def _link_outside(path: Path) -> None:
    outside = path.parents[2] / "outside.tflite"
    shutil.move(path, outside)
    path.symlink_to(outside)


def _link_folder(path: Path) -> None:
    outside = path.parents[2] / "outside"
    shutil.move(path.parent, outside)
    path.parent.symlink_to(outside)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _socket(path: Path) -> None:
    path.unlink()
    # A socket's address is short; the test's folder need not be.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _device(path: Path) -> None:
    path.unlink()
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero, which never ends
    except PermissionError:
        pytest.skip("making devices takes the rights of root")


def _many(path: Path) -> None:
    for place in range(4100):
        path.with_name(str(place)).touch()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_flip, r"int8\.tflite has SHA-256 .*, expected"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"has \d+ bytes, expected"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "has more than"),
        (lambda path: path.unlink(), "is not in the bundle"),
        (_link_inside, "is a link"),
        (_link_outside, "is a link"),
        (_link_folder, "is a link"),
        (_pipe, "is no plain file"),
        (_socket, "is no plain file"),
        (_device, "is no plain file"),
        (_folder, "is not listed"),
        (lambda path: path.with_name("extra.py").write_text("x"), "extra.py is in the bundle and"),
        (
            lambda path: (path.parents[1] / ".DS_Store").write_text("x"),
            ".DS_Store is in the bundle",
        ),
        (lambda path: (path.parents[1] / "empty").mkdir(), "folder empty is not listed"),
        (lambda path: path.with_name("loop").symlink_to(".."), "is a link"),
        (lambda path: path.rename(path.with_name("INT8.tflite")), "is not in the bundle"),
        (lambda path: path.with_name("INT8.tflite").write_bytes(b""), "is not listed"),
        (lambda path: path.with_name("x\x1b[2J").write_bytes(b""), r"x\\x1b\[2J' is in the bundle"),
        (_many, "holds more than 4096 files"),
    ],
)
def test_folders_that_were_tampered_with(
    bundle: Bundle, change: Callable[[Path], object], message: str
) -> None:
    change(bundle.path / PROGRAM)
    with pytest.raises(IntegrityError, match=message):
        Bundle.open(bundle.path)


def test_manifest_as_a_link(bundle: Bundle, tmp_path: Path) -> None:
    shutil.move(bundle.path / "manifest.json", tmp_path / "other.json")
    (bundle.path / "manifest.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(IntegrityError, match=r"manifest\.json .* cannot be read"):
        Bundle.open(bundle.path)


def test_a_file_exchanged_after_opening_is_not_handed_on(bundle: Bundle) -> None:
    entry = bundle.program("litert/int8").files[0]
    bundle.read(entry)
    _flip(bundle.path / PROGRAM)
    with pytest.raises(IntegrityError, match="SHA-256"):
        bundle.read(entry)
    _link_outside(bundle.path / PROGRAM)
    with pytest.raises(IntegrityError, match="cannot be read"):
        bundle.read(entry)


def test_a_folder_exchanged_for_a_link_after_opening(bundle: Bundle, tmp_path: Path) -> None:
    """A link in the middle of the path is followed, and what it leads to is not handed on."""
    entry = bundle.program("litert/int8").files[0]
    other = tmp_path / "other"
    other.mkdir()
    (other / "int8.tflite").write_bytes(bytes(entry.size_bytes))
    shutil.rmtree(bundle.path / "litert")
    (bundle.path / "litert").symlink_to(other)
    with pytest.raises(IntegrityError, match="SHA-256"):
        bundle.read(entry)


def test_a_manifest_exchanged_after_opening_changes_nothing(bundle: Bundle) -> None:
    """What was checked is what is used: the manifest is read once."""
    opened = Bundle.open(bundle.path)
    (bundle.path / "manifest.json").write_text("{}")
    assert opened.manifest == bundle.manifest
    assert opened.program("litert/int8").files[0] == bundle.program("litert/int8").files[0]


def test_hard_links_are_files_like_any_other(bundle: Bundle, tmp_path: Path) -> None:
    """Package managers install by them; a change through the other name is noticed."""
    outside = tmp_path / "outside.tflite"
    os.link(bundle.path / PROGRAM, outside)
    opened = Bundle.open(bundle.path)
    _flip(outside)
    with pytest.raises(IntegrityError, match="SHA-256"):
        opened.read(opened.program("litert/int8").files[0])
    with pytest.raises(IntegrityError, match="SHA-256"):
        Bundle.open(bundle.path)


def test_a_bundle_behind_a_link_opens(bundle: Bundle, tmp_path: Path) -> None:
    """Where the bundle itself is, is its user's choice; links matter inside of it."""
    (tmp_path / "current").symlink_to(bundle.path)
    assert Bundle.open(tmp_path / "current").manifest == bundle.manifest


def test_what_is_no_folder_and_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises((BundleError, OSError), match=r"no bundle at|too long"):
            Bundle.open(path)


def test_a_folder_nobody_may_read(bundle: Bundle) -> None:
    # Outside pytest's own folder, which only its owner may enter.
    with tempfile.TemporaryDirectory() as outside:
        path = Path(shutil.copytree(bundle.path, Path(outside) / "bundle"))
        (path / "litert").chmod(0)
        with (
            _without_the_rights_of_root(Path(outside)),
            pytest.raises(IntegrityError, match="cannot be read: Permission denied"),
        ):
            Bundle.open(path)
        (path / "litert").chmod(0o700)


@contextmanager
def _without_the_rights_of_root(folder: Path) -> Iterator[None]:
    """Root may read everything, so for a moment it is somebody else, who owns the folder."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, _NOBODY, -1)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
