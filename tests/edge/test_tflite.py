"""LiteRT programs in tflite-runtime, in an environment like an old board's, with NumPy 1."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("litert/float32", "litert/int8")


class Environment:
    """A Python with tflite-runtime, which runs this checkout."""

    def __init__(self, python: Path) -> None:
        self._python = python

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._python), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONPATH": str(ROOT / "sdk" / "python")},
        )


def _pip(python: Path, *arguments: str) -> None:
    done = subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def environment(cannot_run: Callable[[str], None]) -> Environment:
    """Made once, as `pip install offramp[tflite]` makes it, less the newer runtime.

    On machines that have wheels of both, pip installs both; a board that tflite-runtime is for has
    not, so LiteRT is taken out, and the checkout takes the place of the installed SDK.
    """
    if sys.version_info[:2] != (3, 11):
        cannot_run("tflite-runtime has wheels for Python 3.11 only")
    folder = ROOT / ".cache" / "tflite"
    stamp = folder / "complete"
    made_of = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        _pip(python, "install", "--quiet", f"{ROOT}[tflite]")
        # The metadata of the distribution stay, for its version.
        _pip(python, "uninstall", "--quiet", "--yes", "ai-edge-litert")
        stamp.write_text(made_of)
    return Environment(python)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_contract_holds(environment: Environment, edge_folder: Path, name: str) -> None:
    done = environment.run(
        *("-m", "offramp.testing", edge_folder / "bundle"),
        *("--program", name, "--runtime", "tflite-runtime"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name} in tflite-runtime 2.14.0" in done.stdout
    assert done.stdout.endswith(" passed, 0 failed\n")
    assert done.stderr == ""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_float32_is_verified(environment: Environment, edge_folder: Path, threads: str) -> None:
    bundle = edge_folder / "bundle"
    done = environment.run("-m", "offramp", "verify", bundle, "--threads", threads)
    assert "litert/float32: ok: 48 images" in done.stdout, done.stdout + done.stderr


def test_it_is_chosen_where_it_is_all_there_is(
    environment: Environment, edge_folder: Path, answers: dict[str, Any]
) -> None:
    """In float32 with the same answers; in int8 its kernels round otherwise, by a step or two."""
    done = environment.run(edge_folder / "predict_all.py", edge_folder)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    assert there["numpy"].startswith("1.")
    for name in PROGRAMS:
        assert there[f"engine of {name}"] == "tflite-runtime 2.14.0"
        assert answers[f"engine of {name}"].startswith("ai-edge-litert")
    assert there["litert/float32"] == answers["litert/float32"]
    alike = [
        mine == theirs
        for mine, theirs in zip(answers["litert/int8"], there["litert/int8"], strict=True)
    ]
    assert sum(alike) >= 0.9 * len(alike)
    done = environment.run(edge_folder / "predict_all.py", edge_folder, "litert")
    assert "needs litert, which is not installed here; run `pip install" in done.stderr


REFUSALS = """
import sys
from pathlib import Path
import msgspec
from offramp.bundle import Bundle
from offramp.errors import ProgramError
from offramp.runtimes._staged import StagedRuntime
from offramp.runtimes._tflite import TFLiteEngine

entry = (bundle := Bundle.open(sys.argv[1])).program("litert/int8")
data, stages = bundle.read(entry.files[0]), entry.stages
first, *rest = stages
logits = first.outputs[0]
scale = msgspec.structs.replace(logits.quantization, scale=0.5)
changes = [
    (data[: int(len(data) * cut)], stages) for cut in (0.0, 0.01, 0.25, 0.5, 0.75, 0.9)
] + [
    (data, stages[:2]),
    *(
        (data, (msgspec.structs.replace(first, outputs=(changed, *first.outputs[1:])), *rest))
        for changed in (
            msgspec.structs.replace(logits, shape=(1, 6)),
            msgspec.structs.replace(logits, dtype="float32"),
            msgspec.structs.replace(logits, quantization=None),
            msgspec.structs.replace(logits, quantization=scale),
        )
    ),
]
for program, edges in changes:
    try:
        StagedRuntime(TFLiteEngine(program), edges)
    except ProgramError as error:
        print("refused", error)
"""


def test_what_it_refuses(environment: Environment, edge_folder: Path) -> None:
    """Programs cut off, and programs that are not what the manifest says."""
    done = environment.run("-c", REFUSALS, edge_folder / "bundle")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 11, done.stdout
    assert all("could not load the program" in line for line in lines[:6])
    assert "has the signatures" in lines[6]
    assert all("output 0 of stage_0 is int8 (1, 5)" in line for line in lines[7:])
    assert done.stderr == ""


MUTATIONS = """
import random
import sys
from offramp.bundle import Bundle
from offramp.errors import OfframpError
from offramp.runtimes._staged import StagedRuntime
from offramp.runtimes._tflite import TFLiteEngine

entry = (bundle := Bundle.open(sys.argv[1])).program("litert/int8")
data = bundle.read(entry.files[0])
for seed in range(400):
    chance, changed = random.Random(seed), bytearray(data)
    if seed < 64:
        changed = changed[: len(data) * seed // 64]
    else:
        for _ in range(chance.choice((1, 4, 32))):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    try:
        StagedRuntime(TFLiteEngine(bytes(changed)), entry.stages).close()
        print("ran")
    except OfframpError:
        print("refused")
"""


def test_broken_programs_do_not_end_the_process(
    environment: Environment, edge_folder: Path
) -> None:
    """The interpreter reads whatever it is given; what it would follow is followed before."""
    done = environment.run("-c", MUTATIONS, edge_folder / "bundle")
    assert done.returncode == 0, done.stderr
    outcomes = done.stdout.split()
    assert len(outcomes) == 400
    # A flipped bit of a weight is nothing that a reader could see; a cut always is.
    assert outcomes[:63] == ["refused"] * 63
    assert "ran" in outcomes


@pytest.mark.parametrize(
    ("machine", "litert"), [("x86_64", True), ("aarch64", True), ("armv7l", False)]
)
def test_boards_that_litert_does_not_reach_can_install(machine: str, litert: bool) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = {"platform_machine": machine}
    required = {
        requirement.name
        for requirement in map(Requirement, project["dependencies"])
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }
    assert ("ai-edge-litert" in required) == litert
    assert {"numpy", "pillow", "msgspec"} <= required
    (numpy,) = (
        requirement
        for requirement in map(Requirement, project["optional-dependencies"]["tflite"])
        if requirement.name == "numpy"
    )
    assert "1.26.4" in numpy.specifier
    assert "2.0.0" not in numpy.specifier
