"""One tiny run of the whole way, which all tests here share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image


class Offramp(Protocol):
    """The command line in a process of its own."""

    def __call__(self, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run it in a folder."""


def _draw_images(folder: Path, *, per_class: int, side: int = 12) -> None:
    """Three colours; some are so pale that an early exit should pass them on."""
    generator = np.random.default_rng(11)
    for channel, label in ((2, "blue"), (1, "green"), (0, "red")):
        (folder / label).mkdir(parents=True)
        for index in range(per_class):
            pixels = generator.integers(60, 160, (side, side, 3))
            pixels[..., channel] += int(generator.integers(5, 90))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{index:04}.png")


def _offramp(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "offramp", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *_python_path()])},
    )


def _python_path() -> list[str]:
    """Where these tests found the packages, if it was not where they are installed."""
    path = os.environ.get("PYTHONPATH")
    return [path] if path else []


def _shown_files() -> list[tuple[str, str]]:
    """Files that pages show whole: blocks of code that begin with a comment of the file's name."""
    pages = sorted((Path(__file__).resolve().parents[2] / "docs").glob("*.md"))
    shown = re.compile(r"^```python\n(# (\w+\.py)\n.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(name, code) for page in pages for code, name in shown.findall(page.read_text())]


@pytest.fixture(scope="session")
def offramp() -> Offramp:
    """Runs ``offramp`` with arguments, in a folder."""
    return _offramp


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of labelled images."""
    folder = tmp_path_factory.mktemp("images") / "photos"
    _draw_images(folder, per_class=240)
    return folder


@pytest.fixture(scope="session")
def demo(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages have it: with ``photos``, their labels, the files that are shown, and
    in ``runs/demo`` what ``offramp demo --quick`` left.
    """
    folder = tmp_path_factory.mktemp("demo")
    (folder / "photos").symlink_to(images)
    (folder / "labels.txt").write_text("blue\ngreen\nred\n")
    for name, code in _shown_files():
        (folder / name).write_text(code)
    done = _offramp(
        *("demo", "--quick", "--data", "photos", "--out", "runs/demo", "--result", "kept.json"),
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    return folder
