"""All that an export found out, in one file.

The form is written down in ``docs/export.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import msgspec

from offramp._files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from offramp_export.footprint import StageFootprint
    from offramp_export.parity import Parity

__all__ = ["FORMAT_VERSION", "ExportReport", "ProgramReport", "StageReport", "write_report"]

FORMAT_VERSION = 1
"""Of the file; a later one may have more keys, and a change of these makes it 2."""


@final
@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage of the torch network.

    Attributes:
        name: ``stage_0`` and so on.
        multiply_adds: For one image.
        parameters: Trainable or not.
    """

    name: str
    multiply_adds: int
    parameters: int


@final
@dataclass(frozen=True, slots=True)
class ProgramReport:
    """One exported program.

    Attributes:
        program: ``runtime/precision``.
        size_bytes: Of all its files.
        exporter: Versions of the packages that made it, and the options they were given.
        parity: How it compares with torch.
        stages: What each stage takes; empty if the target cannot tell.
    """

    program: str
    size_bytes: int
    exporter: Mapping[str, str]
    parity: Parity
    stages: tuple[StageFootprint, ...]


@final
@dataclass(frozen=True, slots=True)
class ExportReport:
    """One export.

    Attributes:
        created_by: ``offramp`` and its version, or what the provenance says.
        input_size: ``(height, width)`` of the images, in pixels.
        stages: Of the torch network.
        programs: One per target, in order.
    """

    created_by: str
    input_size: tuple[int, int]
    stages: tuple[StageReport, ...]
    programs: tuple[ProgramReport, ...]

    def as_data(self) -> dict[str, Any]:
        """The report in builtin types, as it is written; not a number and infinity become null."""
        data: dict[str, Any] = {"format_version": FORMAT_VERSION}
        # Through JSON, which has no other numbers.
        data |= msgspec.json.decode(msgspec.json.encode(self))
        for program, written in zip(self.programs, data["programs"], strict=True):
            for stage, entry in zip(program.stages, written["stages"], strict=True):
                if stage.delegation is not None:
                    entry["delegation"]["share"] = stage.delegation.share
        return data


def write_report(path: Path, report: ExportReport) -> None:
    """Write a report as JSON, whole or not at all.

    Args:
        path: The file; its folder must exist.
        report: What to write.

    Raises:
        OSError: The folder does not exist, or the disk refused.
    """
    text = msgspec.json.format(msgspec.json.encode(report.as_data()), indent=2)
    write_atomically(path, text + b"\n")
