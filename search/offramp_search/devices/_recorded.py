"""A device that is not here, but was measured once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, final

from offramp.errors import DeviceError
from offramp_search.devices._base import Device
from offramp_search.devices._file import read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from offramp.latency import Latency

__all__ = ["RecordedDevice"]


@final
class RecordedDevice(Device):
    """Stands for the device of a recorded latency table; it can measure nothing new.

    Args:
        path: A file that ``LatencyTable`` wrote, here or elsewhere.

    Raises:
        DeviceError: The file is missing or is no latency table.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._record = read_table(path).device

    def record(self) -> Mapping[str, str]:
        """The record of the device that the table was measured on."""
        return self._record

    def measure_signatures(
        self,
        program: bytes,
        *,
        threads: int,
        runs: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> Mapping[str, Latency]:
        """Refuses.

        Raises:
            DeviceError: Always.
        """
        self._refuse()

    def measure(
        self, bundle: Path, program: str, *, threads: int, runs: int
    ) -> tuple[Latency, ...]:
        """Refuses.

        Raises:
            DeviceError: Always.
        """
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise DeviceError(
            f"the recorded table {self._path} cannot measure anything new; measure on the device "
            "itself, or search a space whose blocks are all in the table"
        )
