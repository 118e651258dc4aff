"""Targets by the name of their program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.errors import ExportError
from offramp_export.targets._coreml import CoreML
from offramp_export.targets._executorch import ExecuTorch
from offramp_export.targets._litert import LiteRT

if TYPE_CHECKING:
    from offramp_export.targets._base import Target

__all__ = ["parse_target"]


def parse_target(name: str) -> Target:
    """The target that makes the program of this name, such as ``litert/int8``.

    Raises:
        ExportError: There is none; the message lists those there are.
    """
    known: tuple[Target, ...] = (LiteRT(), LiteRT("int8"), ExecuTorch(), CoreML())
    names = {f"{target.runtime}/{target.precision}": target for target in known}
    if name not in names:
        raise ExportError(f"unknown target {name!r}; expected one of {', '.join(names)}")
    return names[name]
