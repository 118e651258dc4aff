from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from offramp.errors import DataError, ResumeError
from offramp_search.budget import Budget
from offramp_search.comparison import compare_runs, plot_runs
from offramp_search.devices import LatencyTable
from offramp_search.engine import search
from offramp_search.samplers import RandomSampler
from offramp_search.testing import FakeEvaluator, FakeSpace, write_fake_table

if TYPE_CHECKING:
    from pathlib import Path


def make_run(folder: Path, *, seed: int, trials: int = 12, data: str = "same") -> Path:
    search(
        FakeSpace(),
        RandomSampler(seed),
        FakeEvaluator(),
        LatencyTable.recorded(write_fake_table(folder.parent / "table.json")),
        Budget(mean_ms=1.2),
        trials=trials,
        folder=folder / "search",
        seed=seed,
        settings={"data": data},
    )
    return folder


def test_runs_stand_side_by_side(tmp_path: Path) -> None:
    long, short = make_run(tmp_path / "long", seed=1, trials=20), make_run(tmp_path / "b", seed=1)
    first, second = compare_runs([long, short])
    assert (first.name, second.name) == ("long", "b")
    assert (first.trials, second.trials) == (20, 12)
    # The same seed: the longer one has all that the shorter has.
    assert first.accuracy >= second.accuracy
    assert first.hypervolume == pytest.approx(1)
    assert 0 <= second.hypervolume <= first.hypervolume
    assert first.front == tuple(sorted(first.front))
    assert 1 <= second.trials_to_best <= 12


def test_the_command_prints_a_table_and_draws(tmp_path: Path) -> None:
    runs = [str(make_run(tmp_path / name, seed=seed)) for seed, name in enumerate("ab")]
    code = "import sys, typer; from offramp_search.cli.compare import compare; typer.run(compare)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        [*command, *runs, "--plot", str(tmp_path / "fronts.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hypervolume" in done.stdout
    assert (tmp_path / "fronts.png").read_bytes().startswith(b"\x89PNG")
    done = subprocess.run([*command, *runs, "--json"], capture_output=True, text=True, check=True)
    assert [run["name"] for run in json.loads(done.stdout)] == ["a", "b"]


def test_a_single_run_can_be_looked_at(tmp_path: Path) -> None:
    (run,) = compare_runs([make_run(tmp_path / "a", seed=1)])
    assert run.hypervolume == pytest.approx(1)
    plot_runs(tmp_path / "one.png", [run])


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "a", seed=1), make_run(tmp_path / "b", seed=1, data="other")
    with pytest.raises(DataError, match="searched with data 'other' and"):
        compare_runs([run, other])
    with pytest.raises(DataError, match="name each once"):
        compare_runs([run, run])
    with pytest.raises(ResumeError, match="holds no finished search"):
        compare_runs([run, tmp_path / "nothing"])
