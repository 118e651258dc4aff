"""`pip install offramp` on arm64 Linux, by emulation: the same answers at the same exits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]

_SPEC = importlib.util.spec_from_file_location("arm64_root", ROOT / "tools" / "arm64_root.py")
assert _SPEC is not None
assert _SPEC.loader is not None
arm64 = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(arm64)

pytestmark = pytest.mark.slow
PROGRAMS = ("litert/float32", "litert/int8")


@pytest.fixture(scope="module")
def root(cannot_run: Callable[[str], None]) -> Path:
    """A small Debian for arm64 with this checkout installed by its own pip."""
    try:
        arm64.check_machine()
    except arm64.CannotRunError as error:
        cannot_run(f"arm64 cannot be emulated here: {error}")
    root = ROOT / ".cache" / "arm64"
    arm64.make_root(root)
    return root


def test_it_is_arm64_without_torch(root: Path) -> None:
    code = "import platform, offramp; print(platform.machine()); import torch"
    done = arm64.run(root, "-c", code)
    assert done.stdout == "aarch64\n"
    assert "No module named 'torch'" in done.stderr


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76"])
def test_answers_and_exits_are_those_of_this_machine(
    root: Path, edge_folder: Path, answers: dict[str, Any], cpu: str
) -> None:
    """On a core without dot products, as in a Raspberry Pi 4, and with them, as in a 5."""
    done = arm64.run(root, "/shared/predict_all.py", "/shared", cpu=cpu, shared=edge_folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    there = json.loads(done.stdout)
    assert there["machine"] == "aarch64"
    for name in PROGRAMS:
        assert there[name] == answers[name]


def test_the_commands_work(root: Path, edge_folder: Path, answers: dict[str, Any]) -> None:
    done = arm64.run(root, "-m", "offramp", "verify", "/shared/bundle", shared=edge_folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": ok: 48 images") == 2
    photo = "/shared/photos/00.png"
    done = arm64.run(
        root, "-m", "offramp", "predict", "/shared/bundle", photo, "--json", shared=edge_folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (answer,) = json.loads(done.stdout)
    assert [answer["label"], answer["exit"]] == answers["litert/int8"][48]
