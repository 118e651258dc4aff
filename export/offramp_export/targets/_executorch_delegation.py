"""What XNNPACK took of a stage, and what it left to ExecuTorch's own kernels."""

from __future__ import annotations

import operator
from collections import Counter
from typing import TYPE_CHECKING, Any

from offramp.errors import ExportError
from offramp_export.footprint import StageDelegation
from offramp_export.targets._delegation import require_share

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["read_delegation", "require_delegation"]

_CONVOLUTION = "aten.convolution.default"


def read_delegation(lowered: Any) -> StageDelegation:
    """Count the operators of a lowered stage on both sides.

    Args:
        lowered: Its exported program, after lowering.
    """
    delegated: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for node in lowered.graph.nodes:
        if node.op == "get_attr" and node.name.startswith("lowered_module"):
            part = getattr(lowered.graph_module, node.target)
            delegated.update(_operators(part.original_module.graph.nodes))
    left.update(
        name
        for name in _operators(lowered.graph.nodes)
        if not name.startswith("executorch_call_delegate")
    )
    return StageDelegation(dict(delegated), dict(left))


def require_delegation(found: StageDelegation, index: int, least_share: float) -> None:
    """Refuse a stage of which XNNPACK took too little.

    A convolution outside of it is always refused: it runs many times slower.

    Args:
        found: The operators of the stage.
        index: Which stage it is.
        least_share: Of all its operators, what XNNPACK must take.

    Raises:
        ExportError: Names the operators that were left.
    """
    convolutions = found.left.get(_CONVOLUTION, 0)
    if convolutions:
        raise ExportError(
            f"ExecuTorch: XNNPACK left {convolutions} of the convolutions of stage {index} to the "
            "portable kernels; check their groups and dilations, or leave ExecuTorch out of the "
            "targets"
        )
    require_share("ExecuTorch", found, index, least_share)


def _operators(nodes: Iterable[Any]) -> list[str]:
    return [
        _name(node.target)
        for node in nodes
        if node.op == "call_function" and node.target is not operator.getitem
    ]


def _name(target: Any) -> str:
    # Operators of the edge dialect are wrapped; what they wrap has the name torch knows.
    return str(getattr(target, "_op", target))
