"""A latency table as a file."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from offramp._files import write_atomically
from offramp.errors import DeviceError
from offramp.latency import Latency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "Measured",
    "TableFile",
    "digest",
    "measured",
    "read_table",
    "record_table",
    "write_table",
]

Sample = Annotated[float, Meta(ge=0.0)]


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One block: its samples, in the order they were taken, and when."""

    samples_ms: Annotated[tuple[Sample, ...], Meta(min_length=1)]
    warmup_runs: Annotated[int, Meta(ge=0)]
    measured_at: str

    def latency(self) -> Latency:
        """The same as a value."""
        return Latency(self.samples_ms, self.warmup_runs)


class TableFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table: what it was measured on and with, blocks by key, and whole networks by stages."""

    format_version: Literal[1]
    device: dict[str, str]
    precision: Literal["float32", "int8"]
    threads: Annotated[int, Meta(ge=1)]
    blocks: dict[str, Measured]
    networks: dict[str, tuple[Measured, ...]] = {}


def digest(record: Mapping[str, str]) -> str:
    """A short fingerprint of a device's record."""
    encoded = msgspec.json.encode(dict(record), order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:16]


def read_table(path: Path) -> TableFile:
    """Read a table.

    Raises:
        DeviceError: The file is missing or is no latency table.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=TableFile)
    except OSError as error:
        raise DeviceError(
            f"cannot read the latency table {path} ({error.strerror}); measure one on the device"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DeviceError(
            f"{path} is no latency table ({error}); restore the file, or delete it to measure anew"
        ) from error


def record_table(
    path: Path,
    latencies: Mapping[str, Latency],
    *,
    device: Mapping[str, str],
    precision: Literal["float32", "int8"] = "float32",
    threads: int = 1,
    networks: Mapping[str, Sequence[Latency]] | None = None,
) -> Path:
    """Write a latency table of figures that were measured some other way.

    Args:
        path: The file to write.
        latencies: Block key -> what was measured; ``call`` is a call that does next to nothing.
        device: The record of the device.
        precision: The arithmetic of the blocks.
        threads: Threads the runtime was given.
        networks: Key of a whole network -> each stage; see ``network_key``.
    """
    blocks = {key: measured(latency) for key, latency in latencies.items()}
    write_table(
        path,
        TableFile(
            format_version=1,
            device=dict(device),
            precision=precision,
            threads=threads,
            blocks=blocks,
            networks={
                key: tuple(measured(stage) for stage in stages)
                for key, stages in (networks or {}).items()
            },
        ),
    )
    return path


def measured(latency: Latency) -> Measured:
    """What was measured just now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Measured(samples_ms=latency.samples_ms, warmup_runs=latency.warmup_runs, measured_at=now)


def write_table(path: Path, table: TableFile) -> None:
    """Write a table, whole or not at all, its blocks sorted by key."""
    ordered = msgspec.structs.replace(table, blocks=dict(sorted(table.blocks.items())))
    write_atomically(path, msgspec.json.format(msgspec.json.encode(ordered), indent=1) + b"\n")
