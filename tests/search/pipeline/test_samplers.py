from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from offramp_search.budget import Budget
from offramp_search.devices import LatencyTable
from offramp_search.engine import SearchResult, search
from offramp_search.engine._journal import open_study
from offramp_search.pipeline import Method, make_sampler
from offramp_search.samplers import DDPNASSampler
from offramp_search.testing import FakeEvaluator, FakeSpace, write_fake_table

if TYPE_CHECKING:
    from pathlib import Path

BUDGET = Budget(worst_ms=1.75, mean_ms=0.9)


@pytest.fixture
def table(tmp_path: Path) -> LatencyTable:
    return LatencyTable.recorded(write_fake_table(tmp_path / "table.json"))


def run(folder: Path, table: LatencyTable, method: Method, trials: int) -> SearchResult:
    space = FakeSpace()
    sampler = make_sampler(method, 0, space, BUDGET, table, trials=25)
    return search(space, sampler, FakeEvaluator(), table, BUDGET, trials=trials, folder=folder)


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_searches_and_resumes(
    tmp_path: Path, table: LatencyTable, method: Method
) -> None:
    straight = run(tmp_path / "straight", table, method, 25)
    assert len(straight.trials) == 25
    assert all(sum(trial.stage_ms) <= 1.75 for trial in straight.trials)
    run(tmp_path / "resumed", table, method, 11)
    assert run(tmp_path / "resumed", table, method, 25) == straight


def test_pnas_proposes_only_what_can_keep_the_budget(tmp_path: Path, table: LatencyTable) -> None:
    assert run(tmp_path / "pnas", table, "pnas", 25).refused == 0
    assert run(tmp_path / "random", table, "random", 25).refused > 0


def test_ddpnas_fits_into_the_trials_and_its_survivor_keeps_the_budget(
    tmp_path: Path, table: LatencyTable
) -> None:
    result = run(tmp_path / "run", table, "ddpnas", 40)
    sampler = make_sampler("ddpnas", 0, FakeSpace(), BUDGET, table, trials=40)
    assert isinstance(sampler, DDPNASSampler)
    with open_study(tmp_path / "run" / "journal.log", sampler) as study:
        survivor = sampler.answer(study)
    (answer,) = [t for t in result.trials if t.architecture == survivor][:1]
    assert sum(answer.stage_ms) <= 1.75


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_begins_with_the_landmarks(
    tmp_path: Path, table: LatencyTable, method: Method
) -> None:
    plain = {f"unit_{unit}": "2-2" for unit in range(4)}
    landmarks = (
        {**plain, "unit_0": "0-4"},  # no network: passed over
        plain,
        {**plain, "unit_3": "1-3"},
        dict(plain),  # another name for the second
    )
    space = FakeSpace(landmarks=landmarks)
    sampler = make_sampler(method, 0, space, BUDGET, table, trials=10)
    result = search(
        space, sampler, FakeEvaluator(), table, BUDGET, trials=10, folder=tmp_path / "run"
    )
    assert [trial.architecture for trial in result.trials[:2]] == [landmarks[1], landmarks[2]]
    assert len({space.canonical(trial.architecture) for trial in result.trials}) > 4
