from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from offramp._files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path


def test_new_file_is_readable_as_any_other_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_bytes(b"")

    write_atomically(tmp_path / "file.bin", b"abc")

    assert (tmp_path / "file.bin").read_bytes() == b"abc"
    assert (tmp_path / "file.bin").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file.bin", "ordinary"]


def test_existing_file_is_replaced_whole_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"a much longer content than the new one")
    path.chmod(0o600)

    write_atomically(path, b"new")

    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600


def test_failure_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "nowhere" / "file.bin", b"")
