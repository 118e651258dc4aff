"""Latencies of blocks, measured once per device and kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self, final

import msgspec
from torch import nn

from offramp.errors import DeviceError
from offramp.latency import Latency, PredictedLatency
from offramp_search._locks import exclusive
from offramp_search.devices._file import TableFile, digest, measured, read_table, write_table
from offramp_search.devices._recorded import RecordedDevice
from offramp_search.spaces import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from offramp_search.devices._base import Device

__all__ = ["CALL", "LatencyTable"]

_BLOCKS_PER_PROGRAM = 64
_BYTES_PER_PARAMETER = {"float32": 4, "int8": 1}


@final
class _Call(Block):
    """Next to no work: its latency is what any call of the runtime costs."""

    @property
    def key(self) -> str:
        return "call"

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((1, 8),)

    def module(self) -> nn.Module:
        return nn.ReLU().eval()


CALL: Block = _Call()
"""The block whose latency is the price of a call; `predict` looks it up."""


@final
class LatencyTable:
    """Measured latencies of blocks on one device, in one precision, with one number of threads.

    They are kept as a JSON file in ``folder``, one for each combination, with every sample. A
    block is measured once: a later search, a resumed one and a second worker read the same
    figures. Workers that share the folder measure one after the other.

    Args:
        folder: Where the file is kept; made if it is not there.
        device: Where the missing blocks are measured.
        precision: ``float32`` or ``int8``.
        threads: Threads the runtime is given.
        runs: Samples to take of each block.

    Raises:
        DeviceError: The file that is there is no latency table.
    """

    def __init__(
        self,
        folder: Path,
        device: Device,
        *,
        precision: Literal["float32", "int8"] = "float32",
        threads: int = 1,
        runs: int = 50,
    ) -> None:
        record = dict(device.record())
        folder.mkdir(parents=True, exist_ok=True)
        self._device = device
        self._runs = runs
        self._path = folder / f"litert-{precision}-{threads}-{digest(record)}.json"
        self._content = TableFile(
            format_version=1, device=record, precision=precision, threads=threads, blocks={}
        )
        self._load()

    @classmethod
    def recorded(cls, path: Path) -> Self:
        """A table from a file alone, for a device that is not at hand.

        Args:
            path: The file; it is only read.

        Raises:
            DeviceError: The file is missing or is no latency table.
        """
        table = cls.__new__(cls)
        table._device = RecordedDevice(path)
        table._runs = 0
        table._path = path
        table._content = read_table(path)
        return table

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def precision(self) -> str:
        """The arithmetic of the measured blocks."""
        return self._content.precision

    @property
    def fingerprint(self) -> str:
        """Equal for tables whose latencies may be compared."""
        content = self._content
        return f"{digest(content.device)}/litert/{content.precision}/{content.threads}"

    def __len__(self) -> int:
        return len(self._content.blocks)

    def latency(self, key: str) -> Latency:
        """What was measured for one block.

        Raises:
            DeviceError: The block is not in the table.
        """
        try:
            return self._content.blocks[key].latency()
        except KeyError:
            raise DeviceError(
                f"the latency table {self._path} has no block {key!r}; call require() with it"
            ) from None

    @property
    def is_recorded(self) -> bool:
        """Whether the device is not at hand, so that nothing new can be measured."""
        return isinstance(self._device, RecordedDevice)

    def size_bytes(self, parameters: Iterable[int]) -> int:
        """Size of so many parameters in the precision of the table."""
        return sum(parameters) * _BYTES_PER_PARAMETER[self._content.precision]

    def knows(self, blocks: Iterable[Block]) -> bool:
        """Whether ``predict`` needs nothing measured."""
        return not self.missing(blocks)

    def missing(self, blocks: Iterable[Block]) -> tuple[Block, ...]:
        """What ``predict`` needs measured, each block once."""
        wanted = {block.key: block for block in (CALL, *blocks)}
        return tuple(block for key, block in wanted.items() if key not in self._content.blocks)

    def require(
        self, blocks: Iterable[Block], progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Measure the blocks that are missing: all in one program, or in few if they are many.

        Args:
            blocks: Blocks, repeated or known ones among them.
            progress: Called with (blocks done, blocks missing).

        Raises:
            DeviceError: The device cannot be reached, or a block does not run there.
        """
        wanted = {block.key: block for block in (CALL, *blocks)}
        if wanted.keys() <= self._content.blocks.keys():
            return
        if self.is_recorded:
            missing = sorted(wanted.keys() - self._content.blocks.keys())
            raise DeviceError(
                f"the recorded table {self._path} lacks {len(missing)} blocks, {missing[0]!r} "
                "among them; measure them on the device itself"
            )
        with exclusive(self._path.with_suffix(".lock")):
            self._load()
            absent = [block for key, block in wanted.items() if key not in self._content.blocks]
            for start in range(0, len(absent), _BLOCKS_PER_PROGRAM):
                some = absent[start : start + _BLOCKS_PER_PROGRAM]
                self._measure(some)
                if progress is not None:
                    progress(start + len(some), len(absent))

    def network(self, key: str) -> tuple[Latency, ...] | None:
        """What was measured of a whole network, stage by stage; ``None`` if nothing was."""
        stages = self._content.networks.get(key)
        return None if stages is None else tuple(stage.latency() for stage in stages)

    def require_network(
        self,
        key: str,
        make: Callable[[], Mapping[str, tuple[nn.Module, Sequence[tuple[int, ...]]]]],
    ) -> tuple[Latency, ...]:
        """Measure a whole network stage by stage, once, and keep it beside the blocks.

        Args:
            key: See ``network_key``.
            make: Gives the stages as ``stages_as_blocks`` does, if they are to be measured.

        Raises:
            DeviceError: The device cannot be reached, or the network does not run there.
        """
        found = self.network(key)
        if found is not None:
            return found
        if self.is_recorded:
            raise DeviceError(
                f"the recorded table {self._path} lacks the network {key!r}; measure it on the "
                "device itself"
            )
        from offramp_export.blocks import convert_blocks

        with exclusive(self._path.with_suffix(".lock")):
            self._load()
            found = self.network(key)
            if found is not None:
                return found
            stages = make()
            program = convert_blocks(stages, precision=self._content.precision)
            taken = self._device.measure_signatures(
                program, threads=self._content.threads, runs=self._runs
            )
            new = {key: tuple(measured(taken[name]) for name in stages)}
            self._content = msgspec.structs.replace(
                self._content, networks={**self._content.networks, **new}
            )
            write_table(self._path, self._content)
        return tuple(taken[name] for name in stages)

    def predict(self, stages: Sequence[Collection[Block]]) -> tuple[PredictedLatency, ...]:
        """The latency that each stage adds: one call, and the bare work of its blocks.

        Args:
            stages: The blocks of each stage, as ``Space.blocks`` gives them.

        Raises:
            DeviceError: A block is not in the table.
        """
        self.latency(CALL.key)
        for block in (block for blocks in stages for block in blocks):
            self.latency(block.key)
        return tuple(
            PredictedLatency(ms=ms, source=self._path.name) for ms in self.lower_bounds_ms(stages)
        )

    def lower_bounds_ms(self, stages: Sequence[Collection[Block]]) -> tuple[float, ...]:
        """What ``predict`` would say if blocks that are not in the table took no time."""
        known = self._content.blocks
        if CALL.key not in known:
            return (0.0,) * len(stages)
        call_ms = self._median_ms(CALL.key)
        return tuple(
            call_ms
            + math.fsum(
                max(0.0, self._median_ms(block.key) - call_ms)
                for block in blocks
                if block.key in known
            )
            for blocks in stages
        )

    def _median_ms(self, key: str) -> float:
        return self._content.blocks[key].latency().median_ms

    def _load(self) -> None:
        if not self._path.exists():
            return
        found = read_table(self._path)
        expected = self._content
        if (found.device, found.precision, found.threads) != (
            expected.device,
            expected.precision,
            expected.threads,
        ):
            raise DeviceError(
                f"{self._path} was measured on another device or with other settings; put it back "
                "under its own name, or delete it to measure anew"
            )
        self._content = found

    def _measure(self, blocks: Sequence[Block]) -> None:
        # The converter takes seconds to import; a search whose blocks are known does without.
        from offramp_export.blocks import convert_blocks

        names = {f"block_{place}": block for place, block in enumerate(blocks)}
        program = convert_blocks(
            {name: (block.module(), block.input_shapes) for name, block in names.items()},
            precision=self._content.precision,
        )
        latencies = self._device.measure_signatures(
            program, threads=self._content.threads, runs=self._runs
        )
        blocks_measured = {block.key: measured(latencies[name]) for name, block in names.items()}
        self._content = msgspec.structs.replace(
            self._content, blocks={**self._content.blocks, **blocks_measured}
        )
        write_table(self._path, self._content)
