"""The interface of a device: where latency counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from offramp.latency import Latency

__all__ = ["Device"]


class Device(ABC):
    """A host, a board, a phone: something that can run a program and say how long it took."""

    @abstractmethod
    def record(self) -> Mapping[str, str]:
        """What a latency depends on: processor, instruction set, system, runtime and its version.

        Tables are keyed by it, so equal records must mean comparable latencies.
        """

    @abstractmethod
    def measure_signatures(
        self,
        program: bytes,
        *,
        threads: int,
        runs: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> Mapping[str, Latency]:
        """Time every signature of a LiteRT program on its own, in turns.

        One program with many signatures lets one transfer measure hundreds of blocks.

        Args:
            program: The content of a ``.tflite`` file.
            threads: Threads the runtime is given.
            runs: Samples to keep per signature.
            progress: Called with (turns done, turns in all).

        Raises:
            DeviceError: The device cannot be reached, or the program does not run there.
        """

    @abstractmethod
    def measure(
        self, bundle: Path, program: str, *, threads: int, runs: int
    ) -> tuple[Latency, ...]:
        """Time every stage of a bundle's program with the SDK on the device itself."""
