from __future__ import annotations

import json
import math
import zlib
from itertools import product
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from torch import nn

from offramp.errors import DeviceError, InfeasibleBudgetError
from offramp.latency import Latency
from offramp_export.network import Preprocess
from offramp_search.budget import Budget
from offramp_search.devices import CALL, Device, LatencyTable, record_table
from offramp_search.engine import find_feasible
from offramp_search.spaces import Cell, StaticTransform

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from optuna.distributions import CategoricalDistribution

    from offramp_search.spaces import Architecture, Block, Space

CALL_MS = 0.01


def block_ms(block: Block) -> float:
    """A latency that no structure explains, so that nothing but looking finds the smallest."""
    return CALL_MS + zlib.crc32(block.key.encode()) % 1000 / 1e4


def transform(groups: int = 2, stages: int = 2) -> StaticTransform:
    base = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(16, 5)),
    )
    return StaticTransform(
        base, image_shape=(16, 16), preprocess=Preprocess(), num_stages=stages, groups=groups
    )


def cells() -> Cell:
    return Cell(image_shape=(8, 8), num_classes=5, blocks=1, filters=4, levels=2)


def every(space: Space) -> Iterator[Architecture]:
    decisions = space.decisions()
    kinds = [cast("CategoricalDistribution", kind).choices for kind in decisions.values()]
    for choices in product(*kinds):
        architecture = cast("Architecture", dict(zip(decisions, choices, strict=True)))
        if space.refusal(architecture) is None:
            yield architecture


class MadeUpDevice(Device):
    """Takes for a block what the made-up converter wrote into the program."""

    def record(self) -> Mapping[str, str]:
        return {"processor": "made up"}

    def measure_signatures(self, program: bytes, **_: Any) -> Mapping[str, Latency]:
        return {name: Latency((ms,)) for name, ms in json.loads(program).items()}

    def measure(self, bundle: Path, program: str, **_: Any) -> tuple[Latency, ...]:
        raise DeviceError("only blocks are made up")


def convert_nothing(blocks: Mapping[str, Any], *, precision: str) -> bytes:
    """What a block takes in place of the block: converting hundreds would take minutes."""
    ms = {
        name: CALL_MS
        if isinstance(module, nn.ReLU)
        else CALL_MS + zlib.crc32(f"{module} {shapes}".encode()) % 1000 / 1e4
        for name, (module, shapes) in blocks.items()
    }
    return json.dumps(ms).encode()


def table_of(space: Space, path: Path, architectures: Iterator[Architecture]) -> LatencyTable:
    latencies = {CALL.key: Latency((CALL_MS,))}
    for architecture in architectures:
        for block in (block for stage in space.blocks(architecture) for block in stage):
            latencies[block.key] = Latency((block_ms(block),))
    return LatencyTable.recorded(record_table(path, latencies, device={"processor": "made up"}))


def value(space: Space, table: LatencyTable, architecture: Architecture, name: str) -> float:
    stage_ms = [one.ms for one in table.predict(space.blocks(architecture))]
    return {
        "mean_ms": stage_ms[0],
        "worst_ms": math.fsum(stage_ms),
        "size_bytes": 4 * sum(space.parameters(architecture)),
    }[name]


def budget_of(name: str, limit: float) -> Budget:
    limits: dict[str, Any] = {name: limit}
    return Budget(**limits)


@pytest.fixture(scope="module", params=["static_transform", "cell"])
def searched(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Space, LatencyTable]:
    space: Space = transform() if request.param == "static_transform" else cells()
    path = tmp_path_factory.mktemp("table") / "table.json"
    return space, table_of(space, path, every(space))


@pytest.mark.parametrize("name", ["mean_ms", "worst_ms", "size_bytes"])
def test_the_smallest_of_a_small_space_is_the_smallest_of_all(
    searched: tuple[Space, LatencyTable], name: str
) -> None:
    space, table = searched
    smallest = min(value(space, table, one, name) for one in every(space))
    limit = smallest * 0.999 if name != "size_bytes" else smallest - 1
    with pytest.raises(InfeasibleBudgetError, match=f"smallest {name} is .*of all arch") as caught:
        find_feasible(space, table, budget_of(name, limit))
    assert caught.value.smallest == pytest.approx(smallest)
    assert caught.value.proven
    assert caught.value.architecture is not None
    reached = value(space, table, caught.value.architecture, name)
    assert reached == pytest.approx(smallest)
    found = find_feasible(space, table, budget_of(name, smallest * 1.0001))
    assert value(space, table, found, name) <= smallest * 1.0001


@pytest.mark.parametrize("name", ["mean_ms", "worst_ms"])
def test_a_large_space_is_descended_and_what_is_named_can_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("offramp_export.blocks.convert_blocks", convert_nothing)
    space = transform(groups=4, stages=4)  # 42 875 architectures
    table = LatencyTable(tmp_path / "first", MadeUpDevice())
    with pytest.raises(InfeasibleBudgetError, match="found by coordinate descent") as caught:
        find_feasible(space, table, budget_of(name, 0.011))
    assert not caught.value.proven
    architecture = caught.value.architecture
    assert architecture is not None
    table.require(block for stage in space.blocks(architecture) for block in stage)
    assert value(space, table, architecture, name) == pytest.approx(caught.value.smallest)
    rng = np.random.default_rng(0)
    kinds = {n: cast("CategoricalDistribution", k) for n, k in space.decisions().items()}
    drawn = [
        {n: str(rng.choice([str(c) for c in k.choices])) for n, k in kinds.items()}
        for _ in range(200)
    ]
    for other in drawn:
        if space.refusal(other) is None:
            table.require(block for stage in space.blocks(other) for block in stage)
            assert value(space, table, other, name) >= caught.value.smallest
    again = LatencyTable(tmp_path / "second", MadeUpDevice())
    with pytest.raises(InfeasibleBudgetError) as same:
        find_feasible(space, again, budget_of(name, 0.011))
    assert same.value.smallest == caught.value.smallest


def test_limits_that_can_only_be_kept_one_by_one_say_so(tmp_path: Path) -> None:
    space = transform()
    table = table_of(space, tmp_path / "table.json", every(space))
    both = [
        (value(space, table, one, "mean_ms"), value(space, table, one, "size_bytes"))
        for one in every(space)
    ]
    mean_ms, size = min(both)[0], min(size for _, size in both)
    assert (mean_ms, size) not in both
    with pytest.raises(InfeasibleBudgetError, match="can be kept one by one, but together"):
        find_feasible(space, table, Budget(mean_ms=mean_ms, size_bytes=int(size)))


def test_a_recorded_table_that_knows_no_whole_network_says_what_it_lacks(tmp_path: Path) -> None:
    space = transform()
    table = table_of(space, tmp_path / "table.json", iter(()))
    with pytest.raises(DeviceError, match="lacks"):
        find_feasible(space, table, Budget(worst_ms=1))
