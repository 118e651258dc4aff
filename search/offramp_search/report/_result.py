"""Results as JSON, with everything it takes to judge and to repeat them."""

from __future__ import annotations

import datetime
import math
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import msgspec

from offramp._files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Claim", "write_result"]

_PACKAGES = (
    "offramp",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "coremltools",
    "executorch",
    "litert-torch",
    "numpy",
    "optuna",
    "torch",
)


@final
@dataclass(frozen=True, slots=True)
class Claim:
    """One thing a script set out to show, whether it did or not.

    Attributes:
        claim: What the value is, in one line with its unit.
        value: What was measured.
        goal: What was aimed at; ``None`` for a figure that is only reported.
        met: Whether the goal was reached; true without a goal.
    """

    claim: str
    value: float
    goal: float | None
    met: bool

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"the value of {self.claim!r} must be finite, got {self.value}")

    @classmethod
    def at_most(cls, claim: str, value: float, goal: float) -> Claim:
        """A claim that holds if the value is not above the goal."""
        return cls(claim, value, goal, value <= goal)

    @classmethod
    def at_least(cls, claim: str, value: float, goal: float) -> Claim:
        """A claim that holds if the value is not below the goal."""
        return cls(claim, value, goal, value >= goal)


def write_result(
    path: Path,
    *,
    claims: Sequence[Claim],
    figures: Mapping[str, Any],
    purpose: str = "",
    command: Sequence[str] | None = None,
) -> None:
    """Write a result with the command, date, machine and versions it comes from.

    Args:
        path: The file; its folder is made if need be.
        claims: One for each thing the script set out to show, unmet ones included.
        figures: The raw figures: dictionaries, tuples, dataclasses, structs, numbers.
        purpose: What the script is for, in one line.
        command: The arguments as run; ``None`` takes this process's.
    """
    from offramp.profiling import device_record

    words = list(sys.argv if command is None else command)
    record = {
        "purpose": purpose,
        # Of absolute paths only the name: where they lie on one machine says nothing.
        "command": " ".join(_without_folders(word) for word in words),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": device_record(),
        "versions": {"python": platform.python_version(), **_versions()},
        "claims": claims,
        "figures": figures,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def _without_folders(word: str) -> str:
    option, equals, value = word.rpartition("=")
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
