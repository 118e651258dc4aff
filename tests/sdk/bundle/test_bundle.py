"""Writing, reading, changing and packing sound bundles."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from offramp.bundle import (
    Bundle,
    LatencyEntry,
    Manifest,
    Policy,
    encode_manifest,
    json_schema,
    pack_bundle,
    parse_manifest,
    write_bundle,
)
from offramp.errors import BundleError, IntegrityError, ManifestError
from offramp.policy import choose_exits, probabilities, signal_values

if TYPE_CHECKING:
    from collections.abc import Callable


Parts = tuple[Manifest, dict[str, bytes]]

ROOT = Path(__file__).resolve().parents[3]


def test_what_was_written_is_read(bundle: Bundle, bundle_parts: Parts) -> None:
    manifest, files = bundle_parts
    opened = Bundle.open(bundle.path)
    assert opened.manifest == manifest
    for entry in (*(program.files[0] for program in manifest.programs), manifest.vectors):
        assert opened.read(entry) == files[entry.path]
    assert parse_manifest(encode_manifest(manifest)) == manifest


def test_the_committed_schema_is_the_parsers() -> None:
    committed = json.loads((ROOT / "docs" / "manifest-v1.schema.json").read_text())
    assert committed == json_schema(), (
        "write json.dumps(offramp.bundle.json_schema(), indent=2, sort_keys=True) "
        "to docs/manifest-v1.schema.json"
    )
    assert committed["$defs"]["Policy"]["additionalProperties"] is False


def test_program_choice(bundle: Bundle, make_policy: Callable[..., Policy]) -> None:
    assert bundle.program().name == "litert/float32"
    assert bundle.program("litert/int8").precision == "int8"
    only_float = bundle.add_policy(make_policy(program="litert/float32"))
    assert only_float.program().name == "litert/float32"
    assert only_float.add_policy(make_policy()).program().name == "litert/int8"
    with pytest.raises(BundleError, match=r"no program 'coreml/float16'.*has litert/float32, lit"):
        bundle.program("coreml/float16")


def test_policy_choice(bundle: Bundle, make_policy: Callable[..., Policy]) -> None:
    with pytest.raises(BundleError, match=r"no policy for litert/int8; make one with `offramp cal"):
        bundle.policy("litert/int8")
    bundle = bundle.add_policy(make_policy(name="saver"))
    assert bundle.policy("litert/int8").name == "saver"
    bundle = bundle.add_policy(make_policy(name="careful"))
    with pytest.raises(BundleError, match=r"no policy 'default'.*it has saver, careful"):
        bundle.policy("litert/int8")
    bundle = bundle.add_policy(make_policy())
    assert bundle.policy("litert/int8").name == "default"
    assert bundle.policy("litert/int8", "saver").name == "saver"
    with pytest.raises(BundleError, match="no policy for litert/float32"):
        bundle.policy("litert/float32")


def test_add_policy_records_the_exits_of_the_vectors(
    bundle: Bundle, make_policy: Callable[..., Policy]
) -> None:
    sure = signal_values(probabilities(bundle.vectors().logits["litert/int8"]), "max_probability")
    policy = make_policy(thresholds=(*np.median(sure, axis=1)[:2].tolist(), 0.0))
    before = bundle.manifest
    changed = bundle.add_policy(policy)

    recorded = changed.policy("litert/int8").vector_exits
    expected = choose_exits(policy, bundle.vectors().logits["litert/int8"])
    assert recorded == tuple(expected.tolist())
    assert len(set(recorded)) > 1
    assert bundle.manifest is before
    assert before.policies == ()
    assert Bundle.open(bundle.path).manifest == changed.manifest

    replaced = changed.add_policy(make_policy(thresholds=(0.0, 0.0, 0.0)))
    assert len(replaced.manifest.policies) == 1
    assert replaced.policy("litert/int8").vector_exits == (0,) * 8


def test_add_latency_replaces_its_like(bundle: Bundle) -> None:
    entry = LatencyEntry(
        program="litert/int8",
        device={"processor": "a"},
        threads=1,
        stage_samples_ms=((1.0,), (2.0,), (3.0,)),
        warmup_runs=1,
        measured_at="2026-11-24T00:00:00+00:00",
    )
    other = msgspec.structs.replace(entry, threads=2)
    again = msgspec.structs.replace(entry, stage_samples_ms=((9.0,), (9.0,), (9.0,)))
    bundle.add_latency(entry).add_latency(other).add_latency(again)
    assert Bundle.open(bundle.path).manifest.latencies == (other, again)


@pytest.mark.parametrize(
    "changes",
    [
        {"program": "litert/float16"},
        {"thresholds": (0.5, 0.0)},
        {"temperatures": (1.0, 1.0)},
        {"thresholds": (0.5, 7.0, 0.0)},
        {"temperatures": (1.0, float("nan"), 1.0)},
        {"vector_exits": (9,), "name": ""},
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    bundle: Bundle, make_policy: Callable[..., Policy], changes: dict[str, object]
) -> None:
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(BundleError):
        bundle.add_policy(make_policy(**changes))
    assert (bundle.path / "manifest.json").read_bytes() == before
    Bundle.open(bundle.path)


def test_a_killed_writer_does_no_harm(bundle: Bundle, make_policy: Callable[..., Policy]) -> None:
    leftover = bundle.path / ".manifest.json.0123456789ab.part"
    leftover.write_bytes(b"half a mani")
    opened = Bundle.open(bundle.path)
    opened.add_policy(make_policy())
    assert not leftover.exists()


def test_write_refuses_what_does_not_fit(tmp_path: Path, bundle_parts: Parts) -> None:
    manifest, files = bundle_parts
    path = tmp_path / "made"
    for faulty, message in (
        ({**files, "litert/int8.tflite": b"other"}, "int8.tflite has"),
        ({name: data for name, data in files.items() if "int8" not in name}, "not in the bundle"),
        ({**files, "../extra": b"x"}, "extra is given and is not listed"),
        ({**files, "vectors.npz": b"x"}, "vectors.npz has 1 bytes"),
    ):
        with pytest.raises(BundleError, match=message):
            write_bundle(path, manifest, faulty)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ManifestError):
        write_bundle(path, msgspec.structs.replace(manifest, labels=("a", "b")), files)


def test_write_overwrites_bundles_only(tmp_path: Path, bundle_parts: Parts) -> None:
    path = tmp_path / "made"
    write_bundle(path, *bundle_parts)
    with pytest.raises(BundleError, match="exists; choose another path"):
        write_bundle(path, *bundle_parts)
    manifest, files = bundle_parts
    renamed = msgspec.structs.replace(manifest, labels=("v", "w", "x", "y", "z"))
    assert write_bundle(path, renamed, files, overwrite=True).manifest.labels[0] == "v"
    assert [entry.name for entry in tmp_path.iterdir()] == ["made"]

    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    with pytest.raises(BundleError, match="is no bundle, so it is not overwritten"):
        write_bundle(precious, *bundle_parts, overwrite=True)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(BundleError, match="is no bundle, so it is not overwritten"):
        write_bundle(tmp_path / "link", *bundle_parts, overwrite=True)


def test_pack(bundle: Bundle, tmp_path: Path, make_policy: Callable[..., Policy]) -> None:
    changed = bundle.add_policy(make_policy())
    packed = pack_bundle(changed, tmp_path / "b.zip")
    assert packed.manifest == changed.manifest
    assert packed.vectors().images.shape == (8, 12, 12, 3)
    assert packed.path.read_bytes() == pack_bundle(packed, tmp_path / "c.zip").path.read_bytes()
    with pytest.raises(BundleError, match="exists"):
        pack_bundle(changed, packed.path)
    with pytest.raises(BundleError, match="is a zip; unpack it"):
        packed.add_policy(make_policy())
    (tmp_path / "no.zip").write_bytes(b"PK is not enough")
    with pytest.raises(
        IntegrityError, match="neither a folder nor a bundle's zip: not a sound zip"
    ):
        Bundle.open(tmp_path / "no.zip")


def test_zips_of_common_tools_open(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    try:
        subprocess.run(["zip", "-0", "-r", "-D", "-q", path, "."], cwd=bundle.path, check=True)
    except FileNotFoundError:
        pytest.skip("there is no zip command here")
    assert Bundle.open(path).manifest == bundle.manifest
