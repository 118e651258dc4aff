"""What `pip install` without extras brings is enough to use a bundle, and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that holds the distribution alone."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    done = subprocess.run(
        [
            *(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"),
            *("--constraint", str(ROOT / "constraints.txt"), str(ROOT)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_torch_is_not_there(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "python", "-c", "import torch", folder=tmp_path)
    assert "No module named 'torch'" in done.stderr


def test_predict_and_verify_work(environment: Path, demo: Path) -> None:
    image = next(iter(sorted((demo / "runs" / "demo" / "images").iterdir())))
    bundle = demo / "runs" / "demo" / "dynamic.bundle"
    done = run(environment / "offramp", "predict", bundle, image, "--json", folder=demo)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert answer["label"] in ("blue", "green", "red")
    done = run(environment / "offramp", "verify", bundle, folder=demo)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_needs_more_says_how_to_get_it(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "offramp", "demo", folder=tmp_path)
    assert done.returncode == 2
    assert 'pip install "offramp[search]"' in done.stderr
