"""Targets by the name of their program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from offramp.errors import ExportError
from offramp_export.targets._coreml import CoreML
from offramp_export.targets._executorch import ExecuTorch
from offramp_export.targets._litert import LiteRT

if TYPE_CHECKING:
    from offramp_export.targets._base import Target

__all__ = ["TARGETS", "parse_target"]

_OLDER: tuple[Literal["iOS16", "iOS17"], ...] = ("iOS16", "iOS17")

_PLAIN: tuple[Target, ...] = (
    *(LiteRT(precision) for precision in ("float32", "float16", "dynamic_int8", "int8")),
    *(ExecuTorch(precision) for precision in ("float32", "int8")),
    *(CoreML(precision) for precision in ("float16", "float32", "int8", "weight_int8")),
    *(CoreML(precision) for precision in ("palette8", "palette6", "palette4")),
)

TARGETS: dict[str, Target] = {
    **{f"{target.runtime}/{target.precision}": target for target in _PLAIN},
    "executorch/float32@portable": ExecuTorch(kernels="portable"),
    **{
        f"{target.runtime}/{target.precision}@{system}": CoreML(target.precision, system)
        for target in _PLAIN
        if isinstance(target, CoreML)
        for system in (_OLDER[1:] if target.precision == "int8" else _OLDER)
    },
}
"""Every target by its name: ``runtime/precision``, and ``@option`` where it is not the default."""


def parse_target(name: str) -> Target:
    """The target of this name, such as ``litert/int8`` or ``coreml/float16@iOS16``.

    Raises:
        ExportError: There is none; the message lists those there are.
    """
    if name not in TARGETS:
        raise ExportError(f"unknown target {name!r}; expected one of {', '.join(TARGETS)}")
    return TARGETS[name]
