"""A search in several processes and on a real Ray cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from offramp.errors import DeviceError, InfeasibleBudgetError
from offramp_search.budget import Budget
from offramp_search.devices import LatencyTable
from offramp_search.engine import LocalEngine, RayEngine, SearchResult, search
from offramp_search.samplers import RandomSampler
from offramp_search.testing import (
    EngineContract,
    FakeEvaluator,
    FakeSpace,
    LethalEvaluator,
    write_fake_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offramp_search.engine import Engine
    from offramp_search.evaluators import Evaluator


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A cluster of one machine, started from the command line as an administrator would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Sockets of Ray lie in its folder, and their paths must be short.
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        options = {
            "port": port,
            "num-cpus": 2,
            "include-dashboard": "false",
            "object-store-memory": 100 * 2**20,
            "temp-dir": folder,
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": _paths()}
        with (Path(folder) / "log").open("wb") as log:
            head = subprocess.Popen(
                [*command, *words], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(30)


def _paths() -> str:
    return os.pathsep.join(path for path in sys.path if path)


class TestLocalEngine(EngineContract):
    def make_engine(self) -> Engine:
        return LocalEngine(workers=2)


class TestRayEngine(EngineContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, ray_address: str) -> None:
        self.address = ray_address

    def make_engine(self) -> Engine:
        return RayEngine(workers=2, address=self.address)


def find(
    folder: Path, evaluator: Evaluator, engine: Engine | None, *, max_refusals: int = 500
) -> SearchResult:
    table = LatencyTable.recorded(write_fake_table(folder.parent / "table.json"))
    return search(
        FakeSpace(),
        RandomSampler(5),
        evaluator,
        table,
        Budget(mean_ms=1.2),
        trials=10,
        folder=folder,
        engine=engine,
        max_refusals=max_refusals,
    )


def found(result: SearchResult) -> set[tuple[tuple[str, str | int], ...]]:
    return {tuple(sorted(trial.architecture.items())) for trial in result.trials}


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_a_search_that_does_not_learn_finds_the_same_with_several_workers(
    tmp_path: Path, ray_address: str, kind: str
) -> None:
    engine = LocalEngine(2) if kind == "local" else RayEngine(2, address=ray_address)
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    alone = find(tmp_path / "alone", FakeEvaluator(), None)
    shared = find(tmp_path / "shared", LethalEvaluator(deaths, 1), engine)
    assert len(list(deaths.iterdir())) == 1
    assert shared.failed == 0
    assert found(shared) == found(alone)
    assert shared.best.architecture == alone.best.architecture
    assert shared.best.solution == alone.best.solution


def test_what_kills_its_processes_is_given_up_and_the_search_goes_on(tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    result = find(tmp_path / "run", LethalEvaluator(deaths, 3), LocalEngine(2))
    assert len(result.trials) == 10
    assert result.failed <= 1


def test_a_search_whose_every_evaluation_kills_ends(tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    with pytest.raises(InfeasibleBudgetError, match="every trial failed"):
        find(tmp_path / "run", LethalEvaluator(deaths, 1_000), LocalEngine(2), max_refusals=1)


def test_an_address_without_a_cluster_is_refused_with_a_sentence(tmp_path: Path) -> None:
    engine = RayEngine(2, address="ray://127.0.0.1:9")
    with pytest.raises(DeviceError, match="no Ray cluster could be reached at ray://127"):
        find(tmp_path / "run", FakeEvaluator(), engine)
