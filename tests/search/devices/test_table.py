from __future__ import annotations

from typing import TYPE_CHECKING, final

import pytest
from torch import nn

from offramp.errors import DeviceError
from offramp_search.devices import Device, HostDevice, LatencyTable, RecordedDevice
from offramp_search.spaces import Block
from offramp_search.testing import write_fake_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from offramp.latency import Latency


@final
class Convolution(Block):
    def __init__(self, channels: int) -> None:
        self.channels = channels

    @property
    def key(self) -> str:
        return f"convolution of {self.channels} channels"

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((1, self.channels, 16, 16),)

    def module(self) -> nn.Module:
        return nn.Conv2d(self.channels, self.channels, 3, padding=1).eval()


@final
class Counting(Device):
    """The host, and what was asked of it."""

    def __init__(self, processor: str = "") -> None:
        self.host = HostDevice()
        self.processor = processor
        self.measured: list[int] = []

    def record(self) -> Mapping[str, str]:
        return {**self.host.record(), "name": self.processor or "counting"}

    def measure_signatures(
        self,
        program: bytes,
        *,
        threads: int,
        runs: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> Mapping[str, Latency]:
        latencies = self.host.measure_signatures(program, threads=threads, runs=runs)
        self.measured.append(len(latencies))
        return latencies

    def measure(
        self, bundle: Path, program: str, *, threads: int, runs: int
    ) -> tuple[Latency, ...]:
        return self.host.measure(bundle, program, threads=threads, runs=runs)


SMALL, LARGE = Convolution(4), Convolution(64)


def test_blocks_are_measured_once_and_kept(tmp_path: Path) -> None:
    device = Counting()
    table = LatencyTable(tmp_path / "tables", device, runs=11)
    seen: list[tuple[int, int]] = []
    table.require([SMALL, LARGE, SMALL], progress=lambda done, total: seen.append((done, total)))
    assert device.measured == [3]  # and the call
    assert seen == [(3, 3)]
    assert len(table) == 3
    assert len(table.latency(SMALL.key).samples_ms) == 11
    assert table.latency(LARGE.key).median_ms > table.latency(SMALL.key).median_ms

    again = LatencyTable(tmp_path / "tables", device, runs=5)
    again.require([LARGE, SMALL])
    assert device.measured == [3]
    assert again.latency(LARGE.key) == table.latency(LARGE.key)
    recorded = LatencyTable.recorded(table.path)
    recorded.require([SMALL, LARGE])
    assert recorded.predict([[SMALL], [LARGE]]) == table.predict([[SMALL], [LARGE]])
    assert recorded.fingerprint == table.fingerprint


def test_two_tables_of_one_file_measure_a_block_once(tmp_path: Path) -> None:
    devices = Counting(), Counting()
    first, second = (LatencyTable(tmp_path, device, runs=3) for device in devices)
    first.require([SMALL])
    second.require([SMALL])
    assert devices[1].measured == []
    assert second.latency(SMALL.key) == first.latency(SMALL.key)


def test_devices_precisions_and_threads_are_kept_apart(tmp_path: Path) -> None:
    tables = [
        LatencyTable(tmp_path, Counting()),
        LatencyTable(tmp_path, Counting("another")),
        LatencyTable(tmp_path, Counting(), precision="int8"),
        LatencyTable(tmp_path, Counting(), threads=2),
    ]
    assert len({table.path for table in tables}) == 4
    assert len({table.fingerprint for table in tables}) == 4


def test_int8_blocks_are_measured(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path, HostDevice(), precision="int8", runs=3)
    table.require([LARGE])
    assert 0 < table.predict([[LARGE]])[0].ms < 1000


def test_a_prediction_is_one_call_and_the_bare_work(tmp_path: Path) -> None:
    # Tenths of a millisecond that binary floats hold exactly enough.
    path = write_fake_table(tmp_path / "table.json", ms_per_channel=0.1)
    table = LatencyTable.recorded(path)

    @final
    class Linear(Block):
        def __init__(self, key: str) -> None:
            self._key = key

        @property
        def key(self) -> str:
            return self._key

        @property
        def input_shapes(self) -> tuple[tuple[int, ...], ...]:
            return ()

        def module(self) -> nn.Module:
            raise AssertionError("a recorded table converts nothing")

    two, three, call = Linear("linear 2"), Linear("linear 3"), Linear("call")
    stages = table.predict([[two, three], [call], []])
    assert [stage.ms for stage in stages] == pytest.approx([0.01 + 0.2 + 0.3, 0.01, 0.01])
    assert {stage.source for stage in stages} == {"table.json"}
    unknown = Linear("linear 9")
    assert table.lower_bounds_ms([[two, unknown], [unknown]]) == pytest.approx([0.21, 0.01])
    assert table.knows([two, three])
    assert not table.knows([two, unknown])
    with pytest.raises(DeviceError, match=r"has no block 'linear 9'; call require\(\)"):
        table.predict([[Linear("linear 9")]])
    with pytest.raises(DeviceError, match="lacks 1 blocks, 'linear 9' among them"):
        table.require([Linear("linear 9"), two])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b'{"format_version": 2, "device": {}, "precision": "int8", "threads": 1, "blocks": {}}',
        b'{"format_version": 1, "device": {}, "precision": "int8", "threads": 1, "blocks": '
        b'{"a": {"samples_ms": [-1.0], "warmup_runs": 0, "measured_at": ""}}}',
        b'{"format_version": 1, "device": {}, "precision": "int8", "threads": 1, "blocks": '
        b'{"a": {"samples_ms": [], "warmup_runs": 0, "measured_at": ""}}}',
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes) -> None:
    table = LatencyTable(tmp_path, Counting())
    table.path.write_bytes(content)
    for open_table in (
        lambda: LatencyTable(tmp_path, Counting()),
        lambda: LatencyTable.recorded(table.path),
        lambda: RecordedDevice(table.path),
    ):
        with pytest.raises(DeviceError, match=rf"{table.path} is no latency table .*delete it"):
            open_table()


def test_a_table_of_another_device_is_not_taken(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path, Counting())
    write_fake_table(table.path)
    with pytest.raises(DeviceError, match="was measured on another device"):
        LatencyTable(tmp_path, Counting())


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot read the latency table .*none\.json"):
        LatencyTable.recorded(tmp_path / "none.json")


def test_a_recorded_device_measures_nothing(tmp_path: Path) -> None:
    device = RecordedDevice(write_fake_table(tmp_path / "table.json"))
    assert device.record() == {"processor": "fake"}
    with pytest.raises(DeviceError, match="cannot measure anything new"):
        device.measure_signatures(b"", threads=1, runs=1)
    with pytest.raises(DeviceError, match="cannot measure anything new"):
        device.measure(tmp_path, "litert/float32", threads=1, runs=1)
