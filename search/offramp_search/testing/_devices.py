"""What every device must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING

import pytest
from torch import nn

from offramp.errors import DeviceError

if TYPE_CHECKING:
    from offramp_search.devices import Device

__all__ = ["DeviceContract"]


@cache
def _program() -> bytes:
    """Two signatures, one of which does about a thousand times the work."""
    # The converter takes seconds to import.
    from offramp_export.blocks import convert_blocks

    return convert_blocks(
        {
            "small": (nn.Conv2d(8, 8, 3, padding=1).eval(), [(1, 8, 8, 8)]),
            "large": (nn.Conv2d(32, 32, 3, padding=1).eval(), [(1, 32, 64, 64)]),
        },
        precision="float32",
    )


class DeviceContract(ABC):
    """Say in a subclass how to make the device, and pytest runs the contract.

    Every test converts or measures for real; together they take a few seconds.
    """

    @abstractmethod
    def make_device(self) -> Device:
        """The device under test."""

    @pytest.fixture
    def device(self) -> Device:
        """What ``make_device`` makes, for each test."""
        return self.make_device()

    def test_the_record_is_stable_text(self, device: Device) -> None:
        """Tables are keyed by it."""
        record = dict(device.record())
        assert record
        assert all(isinstance(text, str) and text for text in record.values())
        assert dict(device.record()) == record

    def test_every_signature_is_measured(self, device: Device) -> None:
        """As often as asked, in milliseconds."""
        seen: list[tuple[int, int]] = []
        latencies = device.measure_signatures(
            _program(), threads=1, runs=12, progress=lambda done, total: seen.append((done, total))
        )
        assert sorted(latencies) == ["large", "small"]
        for latency in latencies.values():
            assert len(latency.samples_ms) == 12
            assert 0 < latency.median_ms < 1000
        assert seen
        assert seen[-1][0] == seen[-1][1]

    def test_more_work_takes_longer(self, device: Device) -> None:
        """A thousand times the multiply-adds; only the order is asked for."""
        latencies = device.measure_signatures(_program(), threads=1, runs=15)
        assert latencies["large"].median_ms > latencies["small"].median_ms

    def test_what_is_no_program_is_refused(self, device: Device) -> None:
        """With a device's error, whatever the engine raises."""
        program = _program()
        for broken in (b"", b"not a program", program[: len(program) // 2]):
            with pytest.raises(DeviceError):
                device.measure_signatures(broken, threads=1, runs=1)
