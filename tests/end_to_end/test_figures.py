"""The README quotes committed results, and nothing else."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))

_SPEC = importlib.util.spec_from_file_location("figures", ROOT / "benchmarks" / "figures.py")
assert _SPEC is not None
assert _SPEC.loader is not None
figures = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(figures)


def test_the_readme_shows_the_committed_results() -> None:
    readme = (ROOT / "README.md").read_text()
    assert figures.render(readme) == readme
    assert figures.BLOCK.search(readme)


def test_a_changed_figure_would_be_noticed() -> None:
    readme = (ROOT / "README.md").read_text()
    changed = readme.replace("| litert/float32 | static | ", "| litert/float32 | static | 1")
    assert changed != readme
    assert figures.render(changed) != changed


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_say_where_they_come_from(path: Path) -> None:
    result = json.loads(path.read_text())
    assert {"command", "date", "machine", "versions", "claims", "figures"} <= result.keys()
    assert result["claims"]
    for claim in result["claims"]:
        assert claim.keys() == {"claim", "value", "goal", "met"}
