"""Manifests that lie, and the sentence that refuses each."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from offramp.bundle import Bundle
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


def _mixed(*precisions: str) -> Callable[[Any], None]:
    def change(manifest: Any) -> None:
        _set("programs", 1, "precision", value="mixed")(manifest)
        _set("programs", 1, "stage_precisions", value=list(precisions))(manifest)

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
        (_set(*FILE, "path", value="..\\outside"), "expected a relative path"),
        (_set(*FILE, "path", value="\\\\host\\share"), "expected a relative path"),
        (_set(*FILE, "path", value="file:x"), "expected a relative path"),
        (_set(*FILE, "path", value="~/x"), "expected a relative path"),
        (_set(*FILE, "path", value="a b"), "expected a relative path"),
        (_set(*FILE, "path", value="litert/int8.tflite."), "expected a relative path"),
        (_set(*FILE, "path", value="litert/NUL.tflite"), "no name of a Windows device"),
        (_set(*FILE, "path", value="com1/x"), "no name of a Windows device"),
        (_set(*FILE, "path", value="a\0b"), r"without control characters such as U\+0000"),
        (_set(*FILE, "path", value="a\nb"), "without control characters"),
        (_set(*FILE, "path", value="a\n"), "without control characters"),
        (_set(*FILE, "path", value="café"), "expected a relative path"),
        (_set(*FILE, "path", value="cafe\u0301"), "expected a relative path"),
        (_set(*FILE, "path", value="\uff0e\uff0e/x"), "expected a relative path"),
        (_set(*FILE, "path", value="..%2fx"), "expected a relative path"),
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
        (_set("vectors", "path", value="litert/float32.tflite"), "each file only once"),
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
        (
            _set("labels", value=["caf\u00e9", "cafe\u0301", "c", "d", "e"]),
            r"'labels\[1\]' is 'caf\S+', expected each only once",
        ),
        # Text that would steer the terminal it is shown in.
        (_set("labels", 0, value="\x1b[2Jant"), r"'labels\[0\]' is .*control characters"),
        (_set("labels", 0, value="\x9b2Jant"), r"U\+009B"),
        (_set("labels", 0, value="\u202etna"), r"'\\u202etna', expected text without"),
        (_set("provenance", "architecture", value={"a\x07b": 1}), r"U\+0007"),
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
        # A precision for each stage.
        (
            _set("programs", 1, "precision", value="mixed"),
            r"\[1\].stage_precisions' is \(\), expected 3 precisions, one per stage and not all",
        ),
        (
            _set("programs", 1, "stage_precisions", value=["int8", "int8", "float32"]),
            r"stage_precisions' is \('int8', 'int8', 'float32'\), expected none for int8",
        ),
        (_mixed("int8", "float32"), "expected 3 precisions"),
        (_mixed("int8", "int8", "int8"), "not all alike"),
        (
            _mixed("int8", "mixed", "float32"),
            r"stage_precisions\[1\]' is 'mixed': expected one of 'dynamic_int8', 'float16'",
        ),
        # Sizes that no device has memory for.
        (_set("input", "height", value=2**14 + 1), "'input.height' is 16385, expected at most"),
        (_set("input", "width", value=2**62), "'input.width' is 46.*, expected at most 16384"),
        (_set("input", "width", value=2**70), "input.width"),
        (_set(*TENSOR, "outputs", 1, "shape", value=[1, 2**30, 6, 8]), "elements"),
        (_set(*TENSOR, "outputs", 1, "shape", value=[1, 0, 6, 8]), ">= 1"),
        (_set(*TENSOR, "outputs", 1, "shape", value=[1, -6, 6, 8]), ">= 1"),
        (_set(*TENSOR, "outputs", 1, "shape", value=[1.5]), "Expected `int`, got `float`"),
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
        (_set(*TENSOR, "inputs", 0, "quantization", "scale", value=-1.0), "> 0"),
        (_set(*TENSOR, "outputs", 0, "shape", value=[1, 6]), r"\(1, 6\), expected \(1, 5\)"),
        (_set(*TENSOR, "outputs", value=[]), "expected the logits and 2 of the carry"),
        (_set(*TENSOR, "inputs", value=[]), "expected one image"),
        (_set("programs", 1, "stages", 1, "inputs", value=[]), "the carry of stage 0"),
        (_set("programs", 1, "stages", value=[]), "length >= 1"),
        (_set("programs", 1, "runtime", value="pickle"), "expected one of"),
        (_set("programs", value=[]), "'programs' is \\[\\]"),
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
        (b'{"x":' + b"[" * 100 + b"]" * 100 + b"}", "nested more than 32 levels"),
        (b'{"x":' + b'{"x":' * 100 + b"1" + b"}" * 100 + b"}", "nested more than 32 levels"),
        (b'\xef\xbb\xbf{"format_version": 1}', "not valid JSON: .*BOM"),
        (b'{"format_version": 1} {"format_version": 1}', "not valid JSON: Extra data"),
        (b'{"format_version": 1, /* */ "labels": []}', "not valid JSON"),
        ('{"format_version": 1}'.encode("utf-16"), "not valid JSON"),
        (b'{"x": "\\ud800"}', "surrogate|control characters such as U.D800"),
        (b'{"labels": [NaN]}', "holds NaN"),
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


def test_a_full_sized_manifest_is_refused_quickly(bundle: Bundle) -> None:
    """A check that compares each with each would take hours for what fits into eight megabytes."""
    labels = [f"{place:x}" for place in range(600_000)]
    began = time.perf_counter()
    with pytest.raises(ManifestError, match=r"expected \(1, 600000\)"):
        Bundle.open(_rewrite(bundle, _set("labels", value=labels)))
    with pytest.raises(ManifestError, match="expected each only once"):
        Bundle.open(_rewrite(bundle, _set("labels", value=[*labels, "0"])))
    text = "{" + ", ".join(f'"{place:x}": 1' for place in range(500_000)) + ', "0": 1}'
    (bundle.path / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match="key '0' is given twice"):
        Bundle.open(bundle.path)
    assert time.perf_counter() - began < 60


def test_depth_is_counted_whatever_the_stack(bundle: Bundle) -> None:
    """Just below what the JSON reader follows, where a recursive check would run out of stack."""
    text = (bundle.path / "manifest.json").read_text()
    for depth in range(900, 1000, 5):
        nested = "[" * depth + "]" * depth
        changed = text.replace('"architecture": {}', f'"architecture": {{"x": {nested}}}')
        assert changed != text
        (bundle.path / "manifest.json").write_text(changed)
        with pytest.raises(ManifestError, match=r"nested more than|recursion"):
            Bundle.open(bundle.path)
