from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from optuna.samplers import NSGAIISampler, TPESampler

from offramp.errors import DeviceError, InfeasibleBudgetError, ResumeError, TrainingError
from offramp_search.budget import Budget
from offramp_search.devices import LatencyTable
from offramp_search.engine import SearchProgress, SearchResult, read_result, search
from offramp_search.evaluators import Evaluator, Outputs
from offramp_search.samplers import RandomSampler, ReinforceSampler, ReseededSampler
from offramp_search.testing import FakeEvaluator, FakeSpace, write_fake_table

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from optuna.samplers import BaseSampler

    from offramp_search.spaces import Architecture

BUDGET = Budget(mean_ms=1.2)
SCRIPT = Path(__file__).with_name("search_script.py")


@pytest.fixture
def table(tmp_path: Path) -> LatencyTable:
    return LatencyTable.recorded(write_fake_table(tmp_path / "table.json"))


def run(folder: Path, table: LatencyTable, **changes: Any) -> SearchResult:
    options: dict[str, Any] = {
        "space": FakeSpace(),
        "sampler": ReinforceSampler(5),
        "evaluator": FakeEvaluator(),
        "budget": BUDGET,
        "trials": 12,
        **changes,
    }
    return search(
        options.pop("space"),
        options.pop("sampler"),
        options.pop("evaluator"),
        table,
        options.pop("budget"),
        folder=folder,
        **options,
    )


def start(folder: Path, trials: int, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), str(trials), str(seconds)],
        stderr=subprocess.PIPE,
    )


def test_everything_found_keeps_the_budget_and_nothing_else_is_evaluated(
    tmp_path: Path, table: LatencyTable
) -> None:
    space, evaluator = FakeSpace(), FakeEvaluator()
    budget = Budget(mean_ms=0.9, worst_ms=1.7, size_bytes=17 * 16 * 4)
    result = run(tmp_path / "run", table, space=space, evaluator=evaluator, budget=budget)
    assert len(result.trials) == 12
    assert result.refused > 0
    assert len(evaluator.evaluated) <= 12
    for architecture in evaluator.evaluated:
        assert space.refusal(architecture) is None
        stage_ms = [latency.ms for latency in table.predict(space.blocks(architecture))]
        assert stage_ms[0] <= 0.9
        assert math.fsum(stage_ms) <= 1.7
    for trial in result.trials:
        assert trial.solution.mean_ms <= 0.9 * (1 + 1e-9)
        assert trial.size_bytes == 4 * sum(space.parameters(trial.architecture))
        assert trial.stage_ms == pytest.approx(
            [latency.ms for latency in table.predict(space.blocks(trial.architecture))]
        )
    assert result.best.solution.accuracy == max(t.solution.accuracy for t in result.trials)


def test_the_result_is_kept(tmp_path: Path, table: LatencyTable) -> None:
    result = run(tmp_path / "run", table)
    assert read_result(tmp_path / "run" / "result.json") == result
    (tmp_path / "run" / "result.json").write_text("{}")
    with pytest.raises(ResumeError, match="is no result of a search"):
        read_result(tmp_path / "run" / "result.json")


def test_a_longer_search_continues_a_shorter_one(tmp_path: Path, table: LatencyTable) -> None:
    straight = run(tmp_path / "straight", table, trials=20)
    assert run(tmp_path / "resumed", table, trials=7).trials == straight.trials[:7]
    evaluator = FakeEvaluator()
    assert run(tmp_path / "resumed", table, trials=20, evaluator=evaluator) == straight
    assert len(evaluator.evaluated) <= 13


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: TPESampler(seed=seed, n_startup_trials=4),
        lambda seed: NSGAIISampler(seed=seed, population_size=4),
    ],
)
def test_any_sampler_will_do(
    tmp_path: Path, table: LatencyTable, make: Callable[[int], BaseSampler]
) -> None:
    straight = run(tmp_path / "straight", table, sampler=ReseededSampler(make, 0))
    run(tmp_path / "resumed", table, sampler=ReseededSampler(make, 0), trials=6)
    assert run(tmp_path / "resumed", table, sampler=ReseededSampler(make, 0)) == straight


def test_progress_says_where_the_search_is(tmp_path: Path, table: LatencyTable) -> None:
    seen: list[SearchProgress] = []
    result = run(tmp_path / "run", table, progress=seen.append)
    last = seen[-1]
    assert last == SearchProgress(12, 12, result.refused, result.best, last.searched_s)
    assert 0 < seen[0].searched_s < last.searched_s
    assert [step.done + step.refused for step in seen] == list(range(1, len(seen) + 1))


def test_a_search_ends_when_its_minutes_are_over(tmp_path: Path, table: LatencyTable) -> None:
    seen: list[SearchProgress] = []

    def some(minutes: float, evaluator: Evaluator) -> SearchResult:
        return run(
            tmp_path / "run",
            table,
            sampler=RandomSampler(5),
            space=FakeSpace(units=12),
            budget=Budget(mean_ms=100),
            evaluator=evaluator,
            trials=None,
            minutes=minutes,
            progress=seen.append,
        )

    first = some(1 / 60, FakeEvaluator(seconds=0.05))
    # Nothing is proposed after a second, and what was at work then is evaluated.
    assert seen[-2].searched_s < 1 <= seen[-1].searched_s
    assert 2 < len(first.trials) < 20
    assert first.refused + len(first.trials) == len(seen)

    time.sleep(2)  # which nobody searches, longer than what a pause between trials may take
    unused = FakeEvaluator()
    assert some(1 / 60, unused) == first
    assert unused.evaluated == []

    done = len(seen)
    second = some(1.5 / 60, FakeEvaluator(seconds=0.05))
    assert second.trials[: len(first.trials)] == first.trials
    assert seen[done].searched_s < 1.5
    assert seen[-2].searched_s < 1.5 <= seen[-1].searched_s


def test_the_time_of_a_killed_worker_is_not_counted_up_to_who_takes_over(
    tmp_path: Path, table: LatencyTable
) -> None:
    folder = tmp_path / "run"
    process = start(folder, 12, 60)
    journal = folder / "journal.log"
    while not journal.exists() or b"stage_ms" not in journal.read_bytes():
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(3)
    seen: list[SearchProgress] = []
    run(folder, table, minutes=2 / 60, trials=1, progress=seen.append)
    assert seen[-1].done == 1
    assert seen[-1].searched_s < 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"minutes": 0.0}, "minutes must be above 0, got 0.0"),
        ({"minutes": math.nan}, "minutes must be above 0, got nan"),
        ({"trials": None}, "ends after trials or minutes"),
    ],
)
def test_a_search_without_an_end_is_refused(
    tmp_path: Path, table: LatencyTable, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        run(tmp_path / "run", table, **changes)


def test_a_trial_costs_as_many_lines_whatever_it_decides(
    tmp_path: Path, table: LatencyTable
) -> None:
    """Each line is flushed to the disk, and read by every worker."""
    lines = []
    for units in (2, 200):
        run(
            tmp_path / str(units),
            table,
            space=FakeSpace(units),
            budget=Budget(mean_ms=1_000),
            sampler=ReseededSampler(lambda seed: NSGAIISampler(seed=seed, population_size=4), 0),
        )
        text = (tmp_path / str(units) / "journal.log").read_text()
        lines.append(sum('"solution"' in line for line in text.splitlines()))
        assert len(text.splitlines()) < 12 * 12
    assert lines == [12, 12]


def test_no_trial_is_looked_at_again_when_there_are_many(
    tmp_path: Path, table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    whole = FakeSpace.canonical

    def canonical(self: FakeSpace, architecture: Architecture) -> Hashable:
        asked.append(architecture)
        return whole(self, architecture)

    monkeypatch.setattr(FakeSpace, "canonical", canonical)
    result = run(
        tmp_path / "run", table, space=FakeSpace(12), budget=Budget(mean_ms=100), trials=40
    )
    # Once when it is proposed, once when it has finished; and what has the same hash once more.
    assert len(result.trials) == 40
    assert len(asked) <= 3 * 40


def test_a_repeated_architecture_is_not_evaluated_again(
    tmp_path: Path, table: LatencyTable
) -> None:
    evaluator = FakeEvaluator()
    result = run(tmp_path / "run", table, space=FakeSpace(units=1), evaluator=evaluator, trials=10)
    assert len(result.trials) == 10
    assert len(evaluator.evaluated) == len({str(trial.architecture) for trial in result.trials})
    assert len(evaluator.evaluated) <= 3


@pytest.mark.parametrize(
    ("budget", "named", "smallest"),
    [
        (Budget(mean_ms=0.05), r"smallest mean_ms is 0.11 ms \(stage 0 alone\)", 0.11),
        (Budget(worst_ms=0.05), "smallest worst_ms is 1.62 ms", 1.62),
        (Budget(size_bytes=100), "smallest size_bytes is 1088 bytes", 1088),
    ],
)
def test_a_budget_nobody_can_meet_says_what_could_be_met(
    tmp_path: Path, table: LatencyTable, budget: Budget, named: str, smallest: float
) -> None:
    evaluator = FakeEvaluator()
    with pytest.raises(InfeasibleBudgetError, match=named) as caught:
        run(tmp_path / "run", table, evaluator=evaluator, budget=budget)
    assert caught.value.smallest == pytest.approx(smallest)
    assert evaluator.evaluated == []
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"budget": Budget(mean_ms=1.3)}, "with budget"),
        ({"seed": 1}, "with seed 0, which cannot be continued with seed 1"),
        ({"sampler": RandomSampler(5)}, "with sampler"),
        ({"space": FakeSpace(units=3)}, "with space"),
        ({"signal": "margin"}, "with signal 'max_probability'"),
        ({"settings": {"base": "resnet20"}}, "with base None"),
    ],
)
def test_a_search_is_not_continued_with_other_settings(
    tmp_path: Path, table: LatencyTable, changes: dict[str, Any], named: str
) -> None:
    run(tmp_path / "run", table, trials=1)
    with pytest.raises(ResumeError, match=named):
        run(tmp_path / "run", table, trials=2, **changes)


def test_a_search_is_not_continued_on_another_device(tmp_path: Path, table: LatencyTable) -> None:
    run(tmp_path / "run", table, trials=1)
    other = tmp_path / "other.json"
    other.write_text((tmp_path / "table.json").read_text().replace('"fake"', '"another"'))
    with pytest.raises(ResumeError, match="with device"):
        run(tmp_path / "run", LatencyTable.recorded(other), trials=2)


def test_a_torn_last_line_is_cut_off(tmp_path: Path, table: LatencyTable) -> None:
    straight = run(tmp_path / "straight", table)
    run(tmp_path / "torn", table, trials=5)
    with (tmp_path / "torn" / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code":6,"worker_id":"b3f1')
    assert run(tmp_path / "torn", table) == straight


@pytest.mark.parametrize("bytes_kept", [0.2, 0.5, 0.8])
def test_a_journal_cut_anywhere_is_continued(
    tmp_path: Path, table: LatencyTable, bytes_kept: float
) -> None:
    straight = run(tmp_path / "straight", table)
    run(tmp_path / "cut", table)
    journal = tmp_path / "cut" / "journal.log"
    content = journal.read_bytes()
    journal.write_bytes(content[: int(bytes_kept * len(content))])
    assert run(tmp_path / "cut", table) == straight


def test_a_killed_search_resumes_to_the_same_result(tmp_path: Path, table: LatencyTable) -> None:
    straight = run(tmp_path / "straight", table)
    folder = tmp_path / "killed"
    journal = folder / "journal.log"
    for evaluations in (2, 6):
        process = start(folder, 12, 0.3)
        while not journal.exists() or journal.read_bytes().count(b'"solution"') < evaluations:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (folder / "result.json").exists()
    assert run(folder, table) == straight
    assert straight == read_result(folder / "result.json")


def test_two_workers_share_one_search(tmp_path: Path, table: LatencyTable) -> None:
    folder = tmp_path / "run"
    processes = [start(folder, 20, 0.2) for _ in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()
        assert said == b""
    result = read_result(folder / "result.json")
    assert len(result.trials) == 20
    workers = {
        line["user_attrs"]["worker"]
        for line in map(json.loads, (folder / "journal.log").read_text().splitlines())
        if "worker" in line.get("user_attrs", {})
    }
    assert len(workers) == 2
    assert list((folder / "workers").iterdir()) == []
    # Both drew from the same seed, and yet not the same.
    assert len({str(trial.architecture) for trial in result.trials}) > 10
    assert run(folder, table, trials=20) == result


class Crashing(Evaluator):
    """Ends its call on one architecture, as a process that runs out of memory would."""

    def __init__(self, crash: Architecture) -> None:
        self.crash = crash
        self.working = FakeEvaluator()

    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        if architecture == self.crash:
            raise MemoryError
        return self.working.evaluate(architecture, seed=seed)


def test_a_trial_that_ends_its_process_again_and_again_is_given_up(
    tmp_path: Path, table: LatencyTable
) -> None:
    sampler = RandomSampler(5)
    crash = run(tmp_path / "straight", table, sampler=sampler).trials[4].architecture
    for _ in range(3):
        with pytest.raises(MemoryError):
            run(tmp_path / "run", table, evaluator=Crashing(crash), sampler=sampler)
    result = run(tmp_path / "run", table, evaluator=Crashing(crash), sampler=sampler)
    assert result.failed == 1
    assert len(result.trials) == 12
    assert crash not in [trial.architecture for trial in result.trials]


class Diverging(Evaluator):
    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        outputs = FakeEvaluator().evaluate(architecture, seed=seed)
        if architecture["unit_1"] == "3-1":
            outputs.logits[0, 0, 0] = math.nan
        elif architecture["unit_1"] == "2-2":
            raise TrainingError("the loss became nan")
        return outputs


def test_an_architecture_that_diverges_is_refused(tmp_path: Path, table: LatencyTable) -> None:
    result = run(tmp_path / "run", table, evaluator=Diverging(), sampler=RandomSampler(0))
    assert len(result.trials) == 12
    assert {trial.architecture["unit_1"] for trial in result.trials} == {"1-3", "0-4"}


def test_blocks_that_a_recorded_table_lacks_are_named(tmp_path: Path) -> None:
    path = write_fake_table(tmp_path / "table.json")
    content = json.loads(path.read_text())
    del content["blocks"]["linear 3"]
    path.write_text(json.dumps(content))
    with pytest.raises(DeviceError, match="lacks 1 blocks, 'linear 3'"):
        run(tmp_path / "run", LatencyTable.recorded(path))


def test_what_is_too_slow_already_is_not_measured(tmp_path: Path) -> None:
    path = write_fake_table(tmp_path / "table.json")
    content = json.loads(path.read_text())
    del content["blocks"]["linear 3"]
    path.write_text(json.dumps(content))
    with pytest.raises(InfeasibleBudgetError, match=r"smallest mean_ms is 0\.11 ms"):
        run(
            tmp_path / "run",
            LatencyTable.recorded(path),
            space=FakeSpace(units=8),
            budget=Budget(mean_ms=0.05),
        )
