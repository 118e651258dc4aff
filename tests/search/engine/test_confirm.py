"""Winners measured whole, on devices whose whole networks are not the sum of their blocks."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import TYPE_CHECKING, Any, cast

import pytest

from offramp.errors import DeviceError, InfeasibleBudgetError, ResumeError
from offramp.latency import Latency
from offramp_search.budget import Budget
from offramp_search.devices import Device, LatencyTable, network_key, record_table
from offramp_search.engine import Confirmed, SearchResult, confirm, search
from offramp_search.samplers import RandomSampler
from offramp_search.testing import FakeEvaluator, FakeSpace, write_fake_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from offramp_search.spaces import Architecture

SPACE = FakeSpace()
BUDGET = Budget(mean_ms=1.2)
TRIALS = 20


def every() -> Iterator[Architecture]:
    names = list(SPACE.decisions())
    for choices in product(("1-3", "2-2", "3-1", "0-4"), repeat=len(names)):
        architecture = dict(zip(names, choices, strict=True))
        if SPACE.refusal(architecture) is None:
            yield architecture


def record(path: Path, slower: Callable[[int, float], float] | None) -> LatencyTable:
    """A recorded device that also knows whole networks, each slower than its blocks."""
    table = LatencyTable.recorded(write_fake_table(path.with_name("blocks.json")))
    networks = {}
    for architecture in every() if slower is not None else ():
        blocks = SPACE.blocks(architecture)
        assert slower is not None
        networks[network_key(blocks)] = tuple(
            Latency((slower(stage, one.ms),)) for stage, one in enumerate(table.predict(blocks))
        )
    content = json.loads(table.path.read_text())
    latencies = {key: Latency(tuple(one["samples_ms"])) for key, one in content["blocks"].items()}
    return LatencyTable.recorded(
        record_table(path, latencies, device=content["device"], networks=networks)
    )


def run(folder: Path, table: LatencyTable, budget: Budget = BUDGET) -> SearchResult:
    return search(
        SPACE, RandomSampler(3), FakeEvaluator(), table, budget, trials=TRIALS, folder=folder
    )


def confirmed(folder: Path, table: LatencyTable, budget: Budget = BUDGET) -> Confirmed:
    result = run(folder, table, budget)
    return confirm(result, SPACE, table, budget, folder=folder, image_shape=(4, 4))


def test_a_winner_that_takes_what_was_predicted_stays(tmp_path: Path) -> None:
    table = record(tmp_path / "table.json", lambda stage, ms: 1.02 * ms)
    before, after = run(tmp_path / "run", table), confirmed(tmp_path / "run", table)
    assert after.result.best.number == before.best.number
    assert after.correction == (1.0, 1.0)
    assert [check.trial for check in after.checks] == [before.best.number]
    assert after.chosen is after.checks[0]
    assert after.chosen.off == pytest.approx(0.02)
    # Its thresholds are those for what was measured.
    assert after.result.best.stage_ms == after.chosen.measured_ms
    assert BUDGET.mean_ms is not None
    assert after.result.best.solution.mean_ms <= BUDGET.mean_ms


def test_slower_networks_lead_to_another_winner_that_keeps_the_budget(tmp_path: Path) -> None:
    # What is large is slower still, as where a network no longer fits into a cache.
    table = record(tmp_path / "table.json", lambda stage, ms: ms * (1.1 + ms * (1.5 - stage)))
    before, after = run(tmp_path / "run", table), confirmed(tmp_path / "run", table)
    best = after.result.best
    assert best.number != before.best.number
    assert len(after.checks) > 1
    assert all(factor > 1.1 for factor in after.correction)
    measured = table.network(network_key(SPACE.blocks(best.architecture)))
    assert measured is not None
    assert best.stage_ms == tuple(stage.median_ms for stage in measured)
    shares = best.solution.exit_shares
    mean_ms = sum(share * math.fsum(best.stage_ms[: exit + 1]) for exit, share in enumerate(shares))
    assert mean_ms == pytest.approx(best.solution.mean_ms)
    assert BUDGET.mean_ms is not None
    assert mean_ms <= BUDGET.mean_ms
    # By its prediction it would have kept the budget too, but the old winner does not.
    old = table.network(network_key(SPACE.blocks(before.best.architecture)))
    assert old is not None
    shares = before.best.solution.exit_shares
    took = [stage.median_ms for stage in old]
    assert sum(s * math.fsum(took[: e + 1]) for e, s in enumerate(shares)) > BUDGET.mean_ms


def test_the_outcome_is_the_same_each_time(tmp_path: Path) -> None:
    table = record(tmp_path / "table.json", lambda stage, ms: ms * (1.1 + ms * (1.5 - stage)))
    first = confirmed(tmp_path / "run", table)
    assert confirmed(tmp_path / "run", table) == first
    assert confirmed(tmp_path / "another", table) == first


def test_a_device_that_knows_no_network_is_taken_by_its_blocks(tmp_path: Path) -> None:
    table = record(tmp_path / "table.json", None)
    before, after = run(tmp_path / "run", table), confirmed(tmp_path / "run", table)
    assert after.result == before
    assert after.checks == ()
    assert after.chosen is None


def test_where_nothing_keeps_the_budget_the_closest_is_named(tmp_path: Path) -> None:
    table = record(tmp_path / "table.json", lambda stage, ms: 50 * ms)
    with pytest.raises(InfeasibleBudgetError, match="take 50, 50 times what") as caught:
        confirmed(tmp_path / "run", table)
    architecture = caught.value.architecture
    assert architecture is not None
    measured = table.network(network_key(SPACE.blocks(architecture)))
    assert measured is not None
    assert caught.value.smallest == pytest.approx(measured[0].median_ms)


def test_answers_that_are_gone_are_named(tmp_path: Path) -> None:
    table = record(tmp_path / "table.json", lambda stage, ms: 1.3 * ms)
    result = run(tmp_path / "run", table)
    (tmp_path / "run" / "answers" / f"{result.best.number}.safetensors").unlink()
    with pytest.raises(ResumeError, match=f"what trial {result.best.number} answered"):
        confirm(result, SPACE, table, BUDGET, folder=tmp_path / "run", image_shape=(4, 4))


class SlowDevice(Device):
    """Blocks as the table of fakes says; every whole network slower, or dead in the attempt."""

    def __init__(self, *, before: int = 0, deadly: int | None = None) -> None:
        self.networks = before
        self.deadly = deadly

    def record(self) -> Mapping[str, str]:
        return {"processor": "slow"}

    def measure_signatures(self, program: bytes, **_: Any) -> Mapping[str, Latency]:
        names = json.loads(program)
        if "stage_0" not in names:
            return {name: Latency((0.01 + 0.1 * width,)) for name, width in names.items()}
        self.networks += 1
        if self.networks == self.deadly:
            raise KeyboardInterrupt
        first, last = (1.3, 1.0) if self.networks == 1 else (0.7, 1.5)
        return {"stage_0": Latency((first,)), "stage_1": Latency((last,))}

    def measure(self, bundle: Path, program: str, **_: Any) -> tuple[Latency, ...]:
        raise DeviceError("not asked for")


def convert_nothing(blocks: Mapping[str, Any], *, precision: str) -> bytes:
    return json.dumps(
        {name: getattr(module, "out_features", 0) for name, (module, _) in blocks.items()}
    ).encode()


def test_a_run_that_was_killed_goes_on_with_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offramp_export.blocks.convert_blocks", convert_nothing)
    straight = SlowDevice()
    expected = confirmed(tmp_path / "straight", LatencyTable(tmp_path / "one", straight))
    assert straight.networks > 1
    killed = SlowDevice(deadly=2)
    with pytest.raises(KeyboardInterrupt):
        confirmed(tmp_path / "killed", LatencyTable(tmp_path / "two", killed))
    resumed = SlowDevice(before=1)
    again = confirmed(tmp_path / "killed", LatencyTable(tmp_path / "two", resumed))
    assert again == expected
    assert resumed.networks == straight.networks
    best = cast("Any", expected.chosen)
    assert best.measured_ms == (0.7, 1.5)
