"""A bundle and photos, and what this machine makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def edge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bundle`` and ``photos``, and the script that predicts them."""
    folder = tmp_path_factory.mktemp("edge")
    done = subprocess.run(
        [sys.executable, HERE / "make_bundle.py", folder],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "LITERT_TORCH_SHOW_PROGRESS": "n"},
    )
    assert done.returncode == 0, done.stderr
    (folder / "predict_all.py").write_bytes((HERE / "predict_all.py").read_bytes())
    return folder


@pytest.fixture(scope="session")
def answers(edge_folder: Path) -> dict[str, Any]:
    """Labels and exits of this machine, in LiteRT."""
    done = subprocess.run(
        [sys.executable, edge_folder / "predict_all.py", edge_folder],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    for name in ("litert/float32", "litert/int8"):
        # A comparison of machines is worth something if images leave everywhere.
        assert {exit for _, exit in answers[name]} == {0, 1, 2}
        assert len({label for label, _ in answers[name]}) >= 3
    return answers


def cannot(reason: str) -> NoReturn:
    """Skip what this machine cannot do; continuous integration must be able to."""
    if os.environ.get("CI"):
        pytest.fail(f"this must run in CI: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def cannot_run() -> Any:
    """``cannot``, for the tests."""
    return cannot
