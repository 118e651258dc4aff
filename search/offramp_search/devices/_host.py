"""This machine as a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from offramp.bundle import Bundle
from offramp.errors import DeviceError, ProgramError
from offramp.profiling import device_record, measure_signatures, measure_stages
from offramp.runtimes import open_runtime
from offramp_search.devices._base import Device

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from offramp.latency import Latency

__all__ = ["HostDevice"]

_WARMUP_RUNS = 10


@final
class HostDevice(Device):
    """The machine that this process runs on.

    What else runs on it disturbs the figures, so nothing should.
    """

    def record(self) -> Mapping[str, str]:
        """Processor, instruction set, system, runtime and its version."""
        return device_record()

    def measure_signatures(
        self,
        program: bytes,
        *,
        threads: int,
        runs: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> Mapping[str, Latency]:
        """Time every signature in this process, in turns.

        Raises:
            DeviceError: The program does not run here.
        """
        try:
            return measure_signatures(
                program, threads=threads, runs=runs, warmup_runs=_WARMUP_RUNS, progress=progress
            )
        except ProgramError as error:
            raise DeviceError(f"this machine cannot run the program: {error}") from error

    def measure(
        self, bundle: Path, program: str, *, threads: int, runs: int
    ) -> tuple[Latency, ...]:
        """Time every stage of a bundle's program on the first of its test images.

        Raises:
            DeviceError: The program does not run here.
        """
        opened = Bundle.open(bundle)
        image = opened.vectors().images[0]
        try:
            with open_runtime(opened, program, threads=threads) as runtime:
                return measure_stages(runtime, image, runs=runs, warmup_runs=_WARMUP_RUNS)
        except ProgramError as error:
            raise DeviceError(f"this machine cannot run {program}: {error}") from error
