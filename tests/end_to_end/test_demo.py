"""The whole way at tiny sizes: from a folder of images to answers that stop early."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

import pytest

from offramp import Bundle, DynamicClassifier
from offramp.policy import choose_exits

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

    class Offramp(Protocol):
        def __call__(self, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]: ...


LABELS = ("blue", "green", "red")
PROGRAMS = ("litert/float32", "litert/int8")


def test_the_bundle_is_certified_and_complete(demo: Path) -> None:
    bundle = Bundle.open(demo / "runs" / "demo" / "dynamic.bundle")
    assert bundle.manifest.labels == LABELS
    assert tuple(program.name for program in bundle.manifest.programs) == PROGRAMS
    assert len(bundle.manifest.stages) == 2
    assert bundle.manifest.provenance.method == "s2dnas"
    assert bundle.manifest.provenance.architecture
    for program in PROGRAMS:
        (certificate,) = bundle.policy(program).certificates
        assert certificate.limit == 0.05
        assert certificate.images_certified > 0
    assert {entry.program for entry in bundle.manifest.latencies} == set(PROGRAMS)


def test_the_static_baseline_has_programs_of_its_own(demo: Path) -> None:
    bundle = Bundle.open(demo / "runs" / "demo" / "static.bundle")
    assert tuple(program.name for program in bundle.manifest.programs) == PROGRAMS
    assert len(bundle.manifest.stages) == 1


def test_predictions_are_those_of_the_exit_rule(demo: Path) -> None:
    bundle = Bundle.open(demo / "runs" / "demo" / "dynamic.bundle")
    vectors = bundle.vectors()
    for program in PROGRAMS:
        policy = bundle.policy(program)
        exits = choose_exits(policy, vectors.logits[program])
        with DynamicClassifier.load(bundle, program=program) as classifier:
            for number, image in enumerate(vectors.images):
                prediction = classifier.predict(image)
                assert prediction.exit == exits[number]
                logits = vectors.logits[program][exits[number], number]
                assert prediction.index == logits.argmax()


def test_the_result_holds_every_claim_and_figure(demo: Path) -> None:
    record = json.loads((demo / "runs" / "demo" / "demo.json").read_text())
    again = json.loads((demo / "kept.json").read_text())
    assert record["claims"] == again["claims"]
    assert len(record["claims"]) == 5 * len(PROGRAMS)
    assert record["command"].startswith("__main__.py demo --quick")
    for program in PROGRAMS:
        figures = record["figures"]["programs"][program]
        assert figures["test_images"] == 100
        assert sum(figures["exit_shares"]) == pytest.approx(1)
        networks = {name: figures[name] for name in ("static", "dynamic", "last_exit")}
        for network in networks.values():
            assert network["accuracy"] > 0.4  # guessing gives 0.33
        networks["smaller"] = figures["smaller"]["50%"]
        for network in networks.values():
            assert 0 < network["median_ms"] <= network["p90_ms"]
        # A quarter of the multiply-adds.
        assert networks["smaller"]["median_ms"] < networks["static"]["median_ms"]
        equal = networks["static"] if figures["equal_share"] is None else networks["smaller"]
        assert figures["speedup_over_equal"] == pytest.approx(
            equal["mean_ms"] / networks["dynamic"]["mean_ms"]
        )
    assert (demo / "runs" / "demo" / "demo.png").stat().st_size > 10_000


def test_the_table_and_the_line_to_try_are_printed(demo: Path, offramp: Offramp) -> None:
    printed = (demo / "stdout.txt").read_text()
    for word in ("static", "static, 50% wide", "dynamic", *PROGRAMS, "With 95 % confidence"):
        assert word in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("try: offramp ")]
    words = line.removeprefix("try: offramp ").split()
    done = offramp(*words, "--json", folder=demo)
    assert done.returncode == 0, done.stderr
    assert all(answer["label"] in LABELS for answer in json.loads(done.stdout))


def test_nothing_is_done_twice(demo: Path, offramp: Offramp) -> None:
    kept = ("base.safetensors", "network.safetensors", "measured.json", "dynamic.bundle")
    before = {name: (demo / "runs" / "demo" / name).stat().st_mtime_ns for name in kept}
    done = offramp("demo", "--quick", "--data", "photos", "--out", "runs/demo", folder=demo)
    assert done.returncode == 0, done.stderr
    assert {name: (demo / "runs" / "demo" / name).stat().st_mtime_ns for name in kept} == before
    other = offramp(
        "demo", "--quick", "--data", "photos", "--out", "runs/demo", "--seed", "5", folder=demo
    )
    assert other.returncode == 2
    assert "seed was 0" in other.stderr


_FACTORY = """
from torch import nn

def make(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes),
    )
"""


def search_arguments(images: Path, *more: str) -> Sequence[str]:
    return (
        *("search", "--data", str(images), "--out", "run", "--base", "my_network:make"),
        *(
            "--method",
            "random",
            "--epochs",
            "1",
            "--shared-epochs",
            "1",
            "--trials",
            "2",
            "--groups",
            "2",
        ),
        *("--export", "litert/float32", "--limit", "0.05", "--json", *more),
    )


def test_too_few_images_are_refused_before_any_training(
    images: Path, tmp_path: Path, offramp: Offramp
) -> None:
    (tmp_path / "my_network.py").write_text(_FACTORY)
    done = offramp(*search_arguments(images, "--limit", "0.001"), folder=tmp_path)
    assert done.returncode == 2
    assert "give more images or raise the limit" in done.stderr
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_search_takes_a_network_of_ones_own(images: Path, tmp_path: Path, offramp: Offramp) -> None:
    (tmp_path / "my_network.py").write_text(_FACTORY)
    done = offramp(*search_arguments(images, "--budget-mean-ms", "50"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["budget"] == {"mean_ms": 50.0, "worst_ms": None, "size_bytes": None}
    assert found["search"]["trials"] == 2
    assert found["programs"].keys() == {"litert/float32"}
    assert Bundle.open(tmp_path / "run" / "dynamic.bundle").manifest.provenance.method == "random"

    (tmp_path / "given.json").write_text(json.dumps(found["architecture"]))
    arguments = search_arguments(images, "--out", "given", "--architecture", "given.json")
    done = offramp(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout)
    assert built["search"] is None
    assert built["architecture"] == found["architecture"]
    assert built["multiply_adds"] == found["multiply_adds"]


def test_cells_can_be_searched(images: Path, tmp_path: Path, offramp: Offramp) -> None:
    (tmp_path / "my_network.py").write_text(_FACTORY)
    small = ("--cell-blocks", "2", "--cell-filters", "4", "--budget-mean-ms", "50")
    arguments = search_arguments(images, "--space", "cell", "--method", "pnas", *small)
    done = offramp(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["search"]["trials"] == 2
    assert {"block_1_op_1", "block_2_op_1", "exits"} < found["architecture"].keys()
    assert Bundle.open(tmp_path / "run" / "dynamic.bundle").manifest.provenance.method == "pnas"

    refused = offramp(
        *search_arguments(images, "--space", "cell", "--smaller", "0.5"), folder=tmp_path
    )
    assert refused.returncode == 2
    assert "which the space of cells does not have" in refused.stderr


def test_layers_can_be_tied(images: Path, tmp_path: Path, offramp: Offramp) -> None:
    # Two layers that write maps of one shape are one decision.
    factory = _FACTORY.replace("3, 16", "3, 32").replace("nn.MaxPool2d(2),", "")
    factory = factory.replace("16, 32", "32, 32").replace("(16)", "(32)")
    (tmp_path / "my_network.py").write_text(factory)
    (tmp_path / "given.json").write_text('{"0": "1+1", "3": "1+1"}')
    arguments = search_arguments(images, "--architecture", "given.json", "--tie")
    done = offramp(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert "missing: [], unknown: ['3']" in done.stderr


def test_an_architecture_of_another_space_is_refused(
    images: Path, tmp_path: Path, offramp: Offramp
) -> None:
    (tmp_path / "my_network.py").write_text(_FACTORY)
    (tmp_path / "given.json").write_text('{"features.0": "1+1"}')
    done = offramp(*search_arguments(images, "--architecture", "given.json"), folder=tmp_path)
    assert done.returncode == 2
    assert "makes no network: an architecture needs exactly the decisions" in done.stderr
    assert not list((tmp_path / "run").glob("*.safetensors"))
    (tmp_path / "given.json").write_text("[]")
    done = offramp(*search_arguments(images, "--architecture", "given.json"), folder=tmp_path)
    assert done.returncode == 2
    assert "given.json holds no architecture" in done.stderr
