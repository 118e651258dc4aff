"""Every known way to slip something past the reader, and the sentence that refuses it."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from offramp.bundle import Bundle, pack_bundle
from offramp.errors import BundleError, IntegrityError, ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _rewrite(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> Path:
    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return bundle.path


def _set(*keys: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


FILE = ("programs", 0, "files", 0)
TENSOR = ("programs", 1, "stages", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Paths.
        (_set(*FILE, "path", value="../outside"), r"'path' is '\.\./outside', expected a relative"),
        (_set(*FILE, "path", value="litert/../../x"), "expected a relative path"),
        (_set(*FILE, "path", value="/etc/passwd"), "'/etc/passwd', expected a relative path"),
        (_set(*FILE, "path", value="litert\\float32.tflite"), "expected a relative path"),
        (_set(*FILE, "path", value="C:/x"), "expected a relative path"),
        (_set(*FILE, "path", value="a//b"), "expected a relative path"),
        (_set(*FILE, "path", value="./a"), "expected a relative path"),
        (_set(*FILE, "path", value="a/"), "expected a relative path"),
        (_set(*FILE, "path", value=".hidden"), "expected a relative path"),
        (_set(*FILE, "path", value="a\0b"), "expected a relative path"),
        (_set(*FILE, "path", value="a\nb"), "expected a relative path"),
        (_set(*FILE, "path", value="a\n"), "expected a relative path"),
        (_set(*FILE, "path", value="café"), "expected a relative path"),
        (_set(*FILE, "path", value="x" * 201), "length <= 200"),
        (_set(*FILE, "path", value=""), "length >= 1"),
        (_set(*FILE, "path", value="manifest.json"), "each file only once"),
        (_set(*FILE, "path", value="Manifest.JSON"), "each file only once"),
        (_set(*FILE, "path", value="litert/INT8.tflite"), "each file only once, upper and lower"),
        (_set(*FILE, "path", value="vectors.npz/x"), "either a file or a folder"),
        (_set(*FILE, "sha256", value="0" * 63), "'programs\\[0\\].files\\[0\\].sha256' is '0000"),
        (_set(*FILE, "sha256", value="A" * 64), "sha256"),
        (
            _set(*FILE, "size_bytes", value=0),
            "'programs\\[0\\].files\\[0\\].size_bytes' is 0: .*>= 1",
        ),
        (_set(*FILE, "size_bytes", value=2**40), "'size_bytes' is 109951.*, expected at most"),
        # Shape of the whole.
        (_set("format_version", value=2), "'format_version' is 2, expected 1.*upgrade"),
        (_set("format_version", value=0), "'format_version' is 0"),
        (_set("surprise", value=1), "unknown field `surprise`"),
        (_set("labels", value=["one"]), "'labels' is \\['one'\\]: .*length >= 2"),
        (_set("labels", value=["a", "b", "c", "d", "a"]), "'labels\\[4\\]' is 'a', expected each"),
        (
            _set("labels", value=["a", "b", "c"]),
            r"outputs\[0\].shape' is \(1, 5\), expected \(1, 3\)",
        ),
        (_set("stages", value=[]), "'stages' is \\[\\]"),
        (_set("stages", 0, "name", value="stage_1"), "'stages\\[0\\].name' is 'stage_1'"),
        (_set("stages", 2, "carry_shapes", value=[[1]]), "no carry after the last stage"),
        (_set("stages", 0, "carry_shapes", value=[]), "expected a carry"),
        (_set("stages", 0, "carry_shapes", value=[[1, 6, 6, 8]]), "the logits and 1 of the carry"),
        (_set("stages", 0, "carry_shapes", 1, value=[1, 7]), r"expected the carry \(1, 7\)"),
        (
            _set("input", "height", value=13),
            r"stages\[0\].inputs' is .*, expected one image \(1, 13",
        ),
        (
            _set("input", "resize", value="squash"),
            "'input.resize' is 'squash': expected one of 'cover', 'stretch'",
        ),
        (
            _set("programs", 1, "precision", value="float32"),
            "'programs\\[1\\]' is 'litert/float32'",
        ),
        # Carries: shape, dtype and quantisation on both sides of a cut.
        (_set(*TENSOR, "outputs", 1, "quantization", "scale", value=0.5), "the carry of stage 0"),
        (
            _set(*TENSOR, "outputs", 1, "quantization", "zero_point", value=0),
            "the carry of stage 0",
        ),
        (_set(*TENSOR, "outputs", 1, "dtype", value="uint8"), "-128, expected 0 to 255"),
        (_set(*TENSOR, "outputs", 1, "shape", value=[1, 8, 6, 6]), "the carry of stage 0"),
        (
            _set(*TENSOR, "outputs", 1, "quantization", value=None),
            "expected a scale and zero point",
        ),
        (_set(*TENSOR, "outputs", 1, "dtype", value="float32"), "expected none for float32"),
        (_set(*TENSOR, "inputs", 0, "quantization", "scale", value=0), "> 0"),
    ],
)
def test_manifests_that_lie(
    bundle: Bundle, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        Bundle.open(_rewrite(bundle, change))


POLICY = {
    "name": "default",
    "program": "litert/int8",
    "signal": "margin",
    "temperatures": [1.0, 1.0, 1.0],
    "thresholds": [0.5, 0.5, 0.0],
    "enabled": [True, False, True],
}
LATENCY = {
    "program": "litert/int8",
    "device": {"processor": "p"},
    "threads": 1,
    "stage_samples_ms": [[1.0], [1.0], [1.0]],
    "warmup_runs": 1,
    "measured_at": "2026-11-24T00:00:00Z",
}


@pytest.mark.parametrize(
    ("key", "entries", "message"),
    [
        # A threshold of 1e9 once made a classifier of another kind answer nothing at all.
        (
            "policies",
            [POLICY | {"thresholds": [1e9, 0.5, 0.0]}],
            r"thresholds\[0\]' is 1000000000.0",
        ),
        ("policies", [POLICY | {"thresholds": [-0.1, 0.5, 0.0]}], ">= 0.0"),
        ("policies", [POLICY | {"thresholds": [0.5, 0.0]}], "expected 3 values, one per exit"),
        ("policies", [POLICY | {"temperatures": [1.0, 1.0]}], "expected 3 values, one per exit"),
        ("policies", [POLICY | {"temperatures": [0.0, 1.0, 1.0]}], "> 0.0"),
        ("policies", [POLICY | {"enabled": [True] * 4}], "expected 3 values, one per exit"),
        ("policies", [POLICY | {"enabled": [True, True, False]}], "it always answers"),
        ("policies", [POLICY | {"enabled": [1, 1, 1]}], "Expected `bool`, got `int`"),
        ("policies", [POLICY | {"exit_shares": [1.0]}], "one per exit, or none"),
        ("policies", [POLICY | {"vector_exits": [0, 3]}], "expected exits below 3"),
        (
            "policies",
            [POLICY | {"program": "litert/float16"}],
            "one of the programs litert/float32",
        ),
        ("policies", [POLICY | {"signal": "guess"}], "'policies\\[0\\].signal' is 'guess'.*margin"),
        ("policies", [POLICY | {"name": "last"}], "another name"),
        ("policies", [POLICY, POLICY], r"'policies\[1\]' is .*, expected each only once"),
        ("latencies", [LATENCY, LATENCY], r"'latencies\[1\]' is .*, expected each only once"),
        ("latencies", [LATENCY | {"program": "x"}], "one of the programs"),
        ("latencies", [LATENCY | {"stage_samples_ms": [[1.0], [1.0]]}], "expected 3 stages"),
        ("latencies", [LATENCY | {"stage_samples_ms": [[1.0], [], [1.0]]}], "with samples each"),
        ("latencies", [LATENCY | {"threads": 0}], "'latencies\\[0\\].threads' is 0"),
    ],
)
def test_policies_and_latencies_that_lie(
    bundle: Bundle, key: str, entries: list[object], message: str
) -> None:
    Bundle.open(_rewrite(bundle, _set(key, value=[POLICY if key == "policies" else LATENCY])))
    with pytest.raises(ManifestError, match=message):
        Bundle.open(_rewrite(bundle, _set(key, value=entries)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", r"holds \[\], expected an object"),
        (b"\xff{}", "not valid JSON"),
        (b'{"format_version": 1, "format_version": 1}', "'format_version' is given twice"),
        (b'{"format_version": NaN}', "holds NaN, expected finite"),
        (b'{"format_version": -Infinity}', "holds -Infinity, expected finite"),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON: .*recursion"),
        (b'{"format_version": 1, "labels": 1e999}', "labels"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "manifest.json"),
        (b" " * (8 * 2**20 + 1), "at most 8388608"),
    ],
)
def test_files_that_are_no_manifest(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        Bundle.open(tmp_path)


def test_hidden_infinities(bundle: Bundle) -> None:
    """JSON's grammar allows numbers that no float can hold, also where any value is allowed."""
    text = (bundle.path / "manifest.json").read_text()
    for number in ("1e999", "-1e999"):
        changed = text.replace('"architecture": {}', f'"architecture": {{"x": {number}}}')
        assert changed != text
        (bundle.path / "manifest.json").write_text(changed)
        with pytest.raises(ManifestError, match=r"out of range|finite"):
            Bundle.open(bundle.path)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(IntegrityError, match=r"manifest\.json .* cannot be read: No such file"):
        Bundle.open(tmp_path)


PROGRAM = "litert/int8.tflite"


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
        (_folder, "is not listed"),
        (lambda path: path.with_name("extra.py").write_text("x"), "extra.py is in the bundle and"),
        (
            lambda path: (path.parents[1] / ".DS_Store").write_text("x"),
            ".DS_Store is in the bundle",
        ),
        (lambda path: (path.parents[1] / "empty").mkdir(), "folder empty is not listed"),
        (lambda path: path.with_name("loop").symlink_to(".."), "is a link"),
        (lambda path: path.rename(path.with_name("INT8.tflite")), "is not in the bundle"),
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


@pytest.mark.parametrize("name", ["../evil", "/evil", "evil", "litert\\evil", "litert/"])
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


@pytest.fixture
def packed(bundle: Bundle, tmp_path: Path) -> Path:
    return pack_bundle(bundle, tmp_path / "packed.zip").path


def test_zip_with_hidden_bytes(packed: Path) -> None:
    data = packed.read_bytes()
    packed.write_bytes(b"#!/bin/sh\n" + data)
    with pytest.raises(IntegrityError, match="hidden bytes before it"):
        Bundle.open(packed)
    with zipfile.ZipFile(packed, "w") as archive:
        pass
    packed.write_bytes(data)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = b"hidden"
    with pytest.raises(IntegrityError, match="belong to no file"):
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
    with pytest.raises(IntegrityError, match=r"cannot be read|SHA-256"):
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


def test_damaged_manifests_never_crash(bundle: Bundle) -> None:
    path = bundle.path / "manifest.json"
    data = path.read_bytes()
    chance = random.Random(0)
    refused = 0
    for part in range(200):
        changed = bytearray(data if part >= 64 else data[: len(data) * part // 64])
        if part >= 64:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        try:
            Bundle.open(bundle.path)
        except BundleError:
            refused += 1
    assert refused >= 150
