"""The import contracts of pyproject.toml hold, and would catch a breach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _lint_imports(
    folder: Path, config: Path, *search_path: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("lint-imports")),
            "--config",
            str(config),
            "--no-cache",
        ],
        cwd=folder,
        env={"PYTHONPATH": ":".join(map(str, search_path)), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_layers_hold() -> None:
    done = _lint_imports(ROOT, ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout


def test_a_breach_of_the_layers_is_caught(tmp_path: Path) -> None:
    """The SDK reaching up, and the SDK importing torch, both fail under the same contracts."""
    for name in ("offramp", "offramp_export", "offramp_search"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "offramp" / "reaches_up.py").write_text("import offramp_export\n")
    (tmp_path / "offramp" / "heavy.py").write_text("import torch\n")
    done = _lint_imports(tmp_path, ROOT / "pyproject.toml", tmp_path)
    assert done.returncode == 1
    assert "offramp.reaches_up -> offramp_export" in done.stdout
    assert "offramp.heavy -> torch" in done.stdout
