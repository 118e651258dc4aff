"""Zips that were made to deceive, or damaged."""

from __future__ import annotations

import random
import stat
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest

from offramp.bundle import Bundle, pack_bundle
from offramp.errors import BundleError, IntegrityError

if TYPE_CHECKING:
    from pathlib import Path


def _archive(path: Path, members: list[tuple[zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in members:
            archive.writestr(info, data)
    return path


def _members(bundle: Bundle) -> list[tuple[zipfile.ZipInfo, bytes]]:
    files = [path for path in sorted(bundle.path.rglob("*")) if path.is_file()]
    return [
        (zipfile.ZipInfo(path.relative_to(bundle.path).as_posix()), path.read_bytes())
        for path in files
    ]


def test_compressed_members(bundle: Bundle, tmp_path: Path) -> None:
    for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        members = _members(bundle)
        members[0][0].compress_type = kind
        with pytest.raises(IntegrityError, match="is compressed; pack bundles without"):
            Bundle.open(_archive(tmp_path / f"{kind}.zip", members))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_members(bundle: Bundle, tmp_path: Path) -> None:
    members = _members(bundle)
    with pytest.raises(IntegrityError, match=r"is twice in the zip"):
        Bundle.open(_archive(tmp_path / "b.zip", [*members, members[0]]))


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/evil",
        "//host/evil",
        "C:/evil",
        "evil",
        "litert\\evil",
        "other/",
        "LITERT/int8.tflite",
        "litert/ｉnt8.tflite",
        "manifest.json.",
    ],
)
def test_unlisted_members(bundle: Bundle, tmp_path: Path, name: str) -> None:
    members = [*_members(bundle), (zipfile.ZipInfo(name), b"")]
    with pytest.raises(IntegrityError, match="is not listed"):
        Bundle.open(_archive(tmp_path / "b.zip", members))


def test_missing_member(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="is not in the bundle"):
        Bundle.open(_archive(tmp_path / "b.zip", _members(bundle)[1:]))


def test_link_member(bundle: Bundle, tmp_path: Path) -> None:
    members = _members(bundle)
    members[0][0].external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(IntegrityError, match="is a link"):
        Bundle.open(_archive(tmp_path / "b.zip", members))


def test_folder_members(bundle: Bundle, tmp_path: Path) -> None:
    folder = (zipfile.ZipInfo("litert/"), b"")
    path = _archive(tmp_path / "b.zip", [folder, *_members(bundle)])
    assert Bundle.open(path).manifest == bundle.manifest
    data = path.read_bytes()
    sizes = struct.pack("<III", 0xD202EF8D, 1, 1)  # the checksum of one zero byte
    start = _directory(path)
    changed = data[:14] + sizes + data[26:37] + b"\0" + data[37:start]
    entries = bytearray(data[start:-22])
    place = 0
    while (place := entries.find(b"PK\1\2", place)) >= 0:
        old = int.from_bytes(entries[place + 42 : place + 46], "little")
        entries[place + 42 : place + 46] = struct.pack("<I", old and old + 1)
        place += 46
    entries[16:28] = sizes
    end = bytearray(data[-22:])
    end[16:20] = struct.pack("<I", start + 1)
    path.write_bytes(changed + entries + end)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("litert/") == b"\0"
    with pytest.raises(IntegrityError, match="litert/ is a folder that holds bytes"):
        Bundle.open(path)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_device_members(bundle: Bundle, tmp_path: Path, kind: int) -> None:
    members = _members(bundle)
    members[0][0].external_attr = (kind | 0o600) << 16
    with pytest.raises(IntegrityError, match="is no plain file"):
        Bundle.open(_archive(tmp_path / "b.zip", members))


def test_more_members_than_a_bundle_has(bundle: Bundle, tmp_path: Path) -> None:
    many = [(zipfile.ZipInfo(str(place)), b"") for place in range(4100)]
    with pytest.raises(IntegrityError, match=r"lists 4104 members .* expected at most 4096"):
        Bundle.open(_archive(tmp_path / "b.zip", [*_members(bundle), *many]))


@pytest.fixture
def packed(bundle: Bundle, tmp_path: Path) -> Path:
    return pack_bundle(bundle, tmp_path / "packed.zip").path


def test_zip_with_hidden_bytes(packed: Path) -> None:
    data = packed.read_bytes()
    packed.write_bytes(b"#!/bin/sh\n" + data)
    with pytest.raises(IntegrityError, match=r"hidden bytes before it|belong to no file"):
        Bundle.open(packed)
    packed.write_bytes(data + b"hidden")
    with pytest.raises(IntegrityError, match="belong to no file"):
        Bundle.open(packed)
    packed.write_bytes(data)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = b"hidden"
    with pytest.raises(IntegrityError, match="belong to no file"):
        Bundle.open(packed)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (4, b"\1\0", "is split"),  # number of this disk
        (6, b"\1\0", "is split"),  # disk of the directory
        (8, b"\1\0", "is split"),  # members on this disk
        (10, b"\xff\xff", "is split"),  # members, which would mean: see the zip64 record
        (12, b"\xff\xff\xff\xff", "belong to no file"),  # length of the directory
        (16, b"\0\0\0\0", "belong to no file"),  # place of the directory
    ],
)
def test_zip_whose_last_record_lies(packed: Path, offset: int, value: bytes, message: str) -> None:
    data = bytearray(packed.read_bytes())
    start = len(data) - 22 + offset
    data[start : start + len(value)] = value
    packed.write_bytes(data)
    with pytest.raises(IntegrityError, match=message):
        Bundle.open(packed)


def test_zip_with_a_second_directory(packed: Path) -> None:
    """A zip64 record inside the first directory's last comment names another directory."""
    data = packed.read_bytes()
    start = _directory(packed)
    entries, end = bytearray(data[start:-22]), bytearray(data[-22:])
    other = b"".join(
        [
            struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 60, 0),
            struct.pack("<4sIQI", b"PK\6\7", 0, start + len(entries), 1),
        ]
    )
    last = entries.rindex(b"PK\1\2")
    entries[last + 32 : last + 34] = struct.pack("<H", len(other))
    end[12:16] = struct.pack("<I", len(entries) + len(other))
    packed.write_bytes(data[:start] + entries + other + end)
    with pytest.raises(
        IntegrityError, match=r"two directories|two descriptions|belong|not a sound"
    ):
        Bundle.open(packed)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (6, struct.pack("<H", 1), "two descriptions"),  # encrypted, says the local header alone
        (6, struct.pack("<H", 8), "two descriptions"),  # sizes follow the data
        (8, struct.pack("<H", 8), "two descriptions"),  # deflated
        (18, struct.pack("<I", 1), "two descriptions"),  # another size
        (30, b"M", "two descriptions"),  # another name
        (28, struct.pack("<H", 4), r"two descriptions|hidden bytes"),  # another place for the data
    ],
)
def test_zip_whose_two_directories_differ(
    packed: Path, offset: int, value: bytes, message: str
) -> None:
    data = bytearray(packed.read_bytes())
    data[offset : offset + len(value)] = value
    packed.write_bytes(data)
    with pytest.raises(IntegrityError, match=message):
        Bundle.open(packed)


def _directory(path: Path) -> int:
    """Where the directory of a zip begins; the vectors, a zip as well, have one of their own."""
    with zipfile.ZipFile(path) as archive:
        return archive.start_dir


def test_a_member_without_a_name(packed: Path) -> None:
    """Found by fuzzing: what is no name was asked for its last letter."""
    data = bytearray(packed.read_bytes())
    start = _directory(packed)
    data[start + 28 : start + 30] = b"\0\0"  # the name's length; the name becomes an extra field
    data[start + 30 : start + 32] = struct.pack("<H", len("manifest.json"))
    packed.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"without a name|not a sound zip"):
        Bundle.open(packed)


@pytest.mark.parametrize("flags", [1, 8])
def test_zip_flags(packed: Path, flags: int) -> None:
    data = bytearray(packed.read_bytes())
    place = _directory(packed)
    data[place + 8 : place + 10] = struct.pack("<H", flags)
    data[6:8] = struct.pack("<H", flags)
    packed.write_bytes(data)
    with pytest.raises(IntegrityError, match="encrypted or streamed"):
        Bundle.open(packed)


def test_zip_members_that_overlap(packed: Path) -> None:
    """The second member's directory entry is pointed at the first one's bytes."""
    data = bytearray(packed.read_bytes())
    first = _directory(packed)
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    packed.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"two descriptions|hidden"):
        Bundle.open(packed)


def test_zip_exchanged_after_opening(packed: Path) -> None:
    bundle = Bundle.open(packed)
    data = packed.read_bytes()
    entry = bundle.program("litert/int8").files[0]
    packed.write_bytes(data.replace(bundle.read(entry), bytes(entry.size_bytes)))
    with pytest.raises(IntegrityError, match="its CRC-32 is not the one"):
        bundle.read(entry)
    packed.write_bytes(data[: len(data) // 4])
    with pytest.raises(IntegrityError, match="its CRC-32 is not the one"):
        bundle.read(entry)
    packed.unlink()
    with pytest.raises(IntegrityError, match="cannot be read: No such file"):
        bundle.read(entry)


def test_damaged_zips_never_open_and_never_crash(packed: Path) -> None:
    data = packed.read_bytes()
    for part in range(64):
        packed.write_bytes(data[: len(data) * part // 64])
        with pytest.raises(BundleError):
            Bundle.open(packed)
    chance = random.Random(0)
    for _ in range(200):
        changed = bytearray(data)
        place = chance.randrange(len(data))
        changed[place] ^= 1 << chance.randrange(8)
        packed.write_bytes(changed)
        try:
            opened = Bundle.open(packed)
        except BundleError:
            continue
        # What does open differs only where nobody looks: the date or the rights of a member.
        assert opened.manifest.labels == ("ant", "bee", "cat", "dog", "elk")
