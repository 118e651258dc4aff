"""What a caller may ask of one prediction, and the checks of it."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, TypedDict

from offramp.images import check_rotation, region_box

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from offramp.images import Region

__all__ = [
    "Listing",
    "PolicyOptions",
    "PredictOptions",
    "check_deadline",
    "check_options",
    "listing",
]


class PredictOptions(TypedDict, total=False):
    """The options of ``Classifier.predict``, by keyword; see ``DynamicClassifier.predict``."""

    deadline_ms: float | None
    max_results: int | None
    score_threshold: float
    category_allowlist: Collection[str] | None
    category_denylist: Collection[str] | None
    region_of_interest: Region | None
    rotation_degrees: int


class PolicyOptions(PredictOptions, total=False):
    """Those of ``DynamicClassifier.predict``, which may choose a policy as well."""

    policy: str | None


Listing = tuple[int | None, float, frozenset[int] | None, bool]
"""Which categories are listed: how many at most, the smallest score, the indices that were named
(``None`` if no label was), and whether those are allowed, or denied."""

_ALL: Listing = (None, 0.0, None, False)


def listing(
    indices: Mapping[str, int],
    max_results: int | None,
    score_threshold: float,
    allowlist: Collection[str] | None,
    denylist: Collection[str] | None,
) -> Listing:
    """Which categories a caller wants listed.

    Args:
        indices: Label -> class.
        max_results: At most so many; ``None`` for all.
        score_threshold: None of a smaller score.
        allowlist: Only these labels.
        denylist: Not these labels.

    Raises:
        ValueError: The options contradict each other, or name no label.
    """
    if max_results is None and allowlist is None and denylist is None and score_threshold == 0.0:
        return _ALL
    if max_results is not None and max_results < 1:
        raise ValueError(f"max_results is {max_results}, expected at least 1, or None for all")
    if math.isnan(score_threshold):
        raise ValueError("score_threshold is nan, expected a number; 0 lists all")
    if allowlist is None and denylist is None:
        return max_results, score_threshold, None, False
    if allowlist is not None and denylist is not None:
        raise ValueError("got both a category_allowlist and a category_denylist; give one of them")
    if allowlist is not None:
        named = _named(indices, allowlist, "category_allowlist")
        if not named:
            raise ValueError("category_allowlist is empty, expected at least one label, or None")
        return max_results, score_threshold, named, True
    assert denylist is not None
    return max_results, score_threshold, _named(indices, denylist, "category_denylist"), False


def check_options(labels: Sequence[str], options: PredictOptions) -> None:
    """Refuse, before any image is read, options that ``predict`` would refuse for each.

    Raises:
        ValueError: An option is out of its range, or names no label.
    """
    listing(
        {label: index for index, label in enumerate(labels)},
        options.get("max_results"),
        options.get("score_threshold", 0.0),
        options.get("category_allowlist"),
        options.get("category_denylist"),
    )
    region = options.get("region_of_interest")
    if region is not None:
        region_box(1, 1, region)
    check_rotation(options.get("rotation_degrees", 0))
    deadline_ms = options.get("deadline_ms")
    if deadline_ms is not None:
        check_deadline(deadline_ms)


def _named(indices: Mapping[str, int], names: Collection[str], option: str) -> frozenset[int]:
    if isinstance(names, str):
        raise ValueError(f"{option} is the string {names!r}, expected a list: [{names!r}]")
    for name in names:
        if name not in indices:
            close = difflib.get_close_matches(str(name), indices, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else _examples(indices)
            raise ValueError(f"{option} names {name!r}, which is no label; {hint}")
    return frozenset(indices[name] for name in names)


def _examples(indices: Mapping[str, int]) -> str:
    some = [repr(label) for label in list(indices)[:5]]
    return f"the labels are {', '.join(some)}{', ...' if len(indices) > len(some) else ''}"


def check_deadline(deadline_ms: float) -> None:
    """Refuse what is no time to come.

    Raises:
        ValueError: It is not above 0.
    """
    if not deadline_ms > 0:
        raise ValueError(f"deadline_ms is {deadline_ms}, expected a time above 0")
