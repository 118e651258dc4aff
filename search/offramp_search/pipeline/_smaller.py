"""Smaller static networks: what an early-exit network must be worth its trouble against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from offramp_search.pipeline._bundle_steps import export_once, search_accuracy
from offramp_search.pipeline._train_steps import smaller_name, train_smaller

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offramp.bundle import Bundle
    from offramp_export.network import MultiStageNetwork
    from offramp_search.pipeline._context import Context
    from offramp_search.spaces import StaticTransform
    from offramp_search.spaces.static_transform import MaskedNetwork

__all__ = ["Smaller", "equally_accurate", "make_smaller"]


@final
@dataclass(frozen=True, slots=True)
class Smaller:
    """A static network narrower than the base.

    Attributes:
        share: Of the base's width.
        bundle: Its programs.
        search_accuracies: Program -> share of right answers on the search-validation split.
    """

    share: float
    bundle: Bundle
    search_accuracies: Mapping[str, float]


def make_smaller(
    context: Context,
    space: StaticTransform,
    masked: MaskedNetwork,
    teacher: MultiStageNetwork,
    programs: Sequence[str],
) -> tuple[Smaller, ...]:
    """Train and export the smaller static networks that the settings ask for, narrowest first."""
    made = []
    for share in sorted(context.settings.smaller_shares):
        network = train_smaller(context, space, masked, share, teacher)
        bundle = export_once(context, smaller_name(share), network, programs)
        accuracies = {
            program: search_accuracy(context, bundle, program, early_exits=False)
            for program in programs
        }
        made.append(Smaller(share, bundle, accuracies))
    return tuple(made)


def equally_accurate(
    smaller: Sequence[Smaller], program: str, search_accuracy: float
) -> float | None:
    """The share of the narrowest network that is at least as accurate.

    Judged on the search-validation split, so that nothing is chosen on the test split.

    Args:
        smaller: Narrowest first.
        program: Where accuracies are compared.
        search_accuracy: Of the early-exit network, under its policy.

    Returns:
        The share, or ``None`` if all of them are less accurate.
    """
    return next(
        (one.share for one in smaller if one.search_accuracies[program] >= search_accuracy), None
    )
