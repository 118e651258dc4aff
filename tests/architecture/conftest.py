"""Where the packages are."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sdk/python/offramp", "export/offramp_export", "search/offramp_search")


@pytest.fixture(params=PACKAGES, ids=lambda path: path.rpartition("/")[2])
def package(request: pytest.FixtureRequest) -> Path:
    """The folder of each import package in turn."""
    return ROOT / str(request.param)


@pytest.fixture
def make_package(tmp_path: Path) -> Path:
    """An empty package to put faults into."""
    folder = tmp_path / "faulty"
    folder.mkdir()
    return folder
