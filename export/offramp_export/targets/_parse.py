"""Targets by the name of their program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from offramp.errors import ExportError
from offramp_export.targets._coreml import CoreML
from offramp_export.targets._executorch import ExecuTorch
from offramp_export.targets._litert import LiteRT

if TYPE_CHECKING:
    from offramp_export._litert.precision import StagePrecision
    from offramp_export.targets._base import Target

__all__ = ["TARGETS", "parse_target"]

_OLDER: tuple[Literal["iOS16", "iOS17"], ...] = ("iOS16", "iOS17")

_PLAIN: tuple[Target, ...] = (
    *(LiteRT(precision) for precision in ("float32", "float16", "dynamic_int8", "int8", "int16x8")),
    *(ExecuTorch(precision) for precision in ("float32", "int8")),
    *(CoreML(precision) for precision in ("float16", "float32", "int8", "weight_int8")),
    *(CoreML(precision) for precision in ("palette8", "palette6", "palette4")),
)

TARGETS: dict[str, Target] = {
    **{target.name: target for target in _PLAIN},
    "executorch/float32@portable": ExecuTorch(kernels="portable"),
    **{
        f"{target.name}@{system}": CoreML(target.precision, system)
        for target in _PLAIN
        if isinstance(target, CoreML)
        for system in (_OLDER[1:] if target.precision == "int8" else _OLDER)
    },
}
"""Every target by its name: ``runtime/precision``, and ``@option`` where it is not the default."""


def parse_target(name: str) -> Target:
    """The target of this name: ``litert/int8``, ``litert/float32,int8``, ``coreml/float16@iOS16``.

    A list after ``litert/`` gives the precision of each stage, first to last.

    Raises:
        ExportError: There is none; the message lists those there are.
    """
    runtime, _, precisions = name.partition("/")
    if runtime == "litert" and "," in precisions:
        # LiteRT looks through them itself.
        return LiteRT(cast("tuple[StagePrecision, ...]", tuple(precisions.split(","))))
    if name not in TARGETS:
        raise ExportError(f"unknown target {name!r}; expected one of {', '.join(TARGETS)}")
    return TARGETS[name]
