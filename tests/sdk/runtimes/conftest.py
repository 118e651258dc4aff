"""The shim, built once, and processes in which torch cannot be imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

from offramp.runtimes import build_shim

if TYPE_CHECKING:
    from pathlib import Path


class Python(Protocol):
    """A script in a process of its own."""

    def __call__(self, code: str, *, torch: bool = False) -> subprocess.CompletedProcess[str]:
        """Run it; without ``torch`` any attempt to import that is an error that no code expects."""


_NO_TORCH = """
import sys
from importlib.machinery import ModuleSpec

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.partition(".")[0] in {"torch", "torchao"} else None

    def create_module(self, spec):
        raise SystemError(f"something imported {spec.name}")

    def exec_module(self, module):
        raise AssertionError

sys.meta_path.insert(0, NoTorch())
"""


@pytest.fixture(scope="session")
def shim() -> Path:
    """The shim, compiled from its source."""
    if shutil.which("g++") is None and not os.environ.get("CI"):
        pytest.skip("no g++ to build the ExecuTorch shim with")
    return build_shim()


@pytest.fixture
def python() -> Python:
    """Runs scripts."""

    def run(code: str, *, torch: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code if torch else _NO_TORCH + code],
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
