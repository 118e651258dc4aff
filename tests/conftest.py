"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the SDK remembers between runs must not make a test pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts the same in every test."""
    return np.random.default_rng(20261123)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data sets and pretrained networks that are not part of the project.

    ``OFFRAMP_TEST_DATA`` names the folder; by default it is ``shared/data`` beside the checkout.
    """
    folder = Path(os.environ.get("OFFRAMP_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set OFFRAMP_TEST_DATA to a folder with cifar10/")
    return folder
