from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from offramp.errors import DeviceError
from offramp_export import export
from offramp_export.targets import LiteRT
from offramp_search.devices import HostDevice
from offramp_search.testing import DeviceContract, FakeSpace

if TYPE_CHECKING:
    from pathlib import Path

    from offramp_search.devices import Device


class TestHostDevice(DeviceContract):
    def make_device(self) -> Device:
        return HostDevice()

    def test_every_stage_of_a_bundle_is_measured(
        self, device: Device, tmp_path: Path, rng: np.random.Generator
    ) -> None:
        torch.manual_seed(0)
        export(
            FakeSpace().build({}).eval().stages,  # type: ignore[arg-type]
            rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8),
            [LiteRT()],
            path=tmp_path / "bundle",
            labels=["a", "b", "c", "d"],
        )
        latencies = device.measure(tmp_path / "bundle", "litert/float32", threads=1, runs=12)
        assert [len(latency.samples_ms) for latency in latencies] == [12, 12]
        assert all(0 < latency.median_ms < 1000 for latency in latencies)


def test_no_threads_are_refused() -> None:
    with pytest.raises((DeviceError, ValueError)):
        HostDevice().measure_signatures(b"", threads=0, runs=1)
