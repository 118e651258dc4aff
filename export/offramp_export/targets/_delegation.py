"""The share of a stage's operators that a runtime's fast library must take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.errors import ExportError

if TYPE_CHECKING:
    from offramp_export.footprint import StageDelegation

__all__ = ["check_share", "require_share"]

_MOST_NAMES = 5


def check_share(least_share: float) -> None:
    """Refuse what is not a share.

    Raises:
        ExportError: It is not from 0 to 1.
    """
    if not 0 <= least_share <= 1:
        raise ExportError(f"delegated_share is {least_share}; expected a share from 0 to 1")


def require_share(runtime: str, found: StageDelegation, index: int, least_share: float) -> None:
    """Refuse a stage of which XNNPACK took too little.

    Args:
        runtime: For the message.
        found: The operators of the stage.
        index: Which stage it is.
        least_share: Of all its operators, what XNNPACK must take.

    Raises:
        ExportError: Names the operators that were left.
    """
    if found.share < least_share:
        most = sorted(found.left.items(), key=lambda item: (-item[1], item[0]))[:_MOST_NAMES]
        named = ", ".join(f"{name} ({count})" for name, count in most)
        raise ExportError(
            f"{runtime}: XNNPACK took {found.share:.0%} of the operators of stage {index}, "
            f"expected at least {least_share:.0%}; it left {named}: replace them, or lower "
            "delegated_share"
        )
