"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import msgspec

from offramp._files import write_atomically
from offramp.errors import ResumeError
from offramp_search.budget import Budget  # noqa: TC001 - msgspec reads the annotations
from offramp_search.thresholds import Solution  # noqa: TC001

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SearchProgress", "SearchResult", "TrialResult", "read_result", "write_result"]


@final
@dataclass(frozen=True, slots=True)
class TrialResult:
    """One architecture that keeps the budget, and what it is worth.

    Attributes:
        number: The trial's number, refused ones counted.
        architecture: The decisions.
        solution: Accuracy, mean latency and thresholds on the search-validation split.
        stage_ms: Predicted latency that each stage adds, in milliseconds.
        size_bytes: Size of the parameters in the precision of the latency table.
        repeats: The trial that evaluated the same network before, if this one did not.
    """

    number: int
    architecture: dict[str, str | int]
    solution: Solution
    stage_ms: tuple[float, ...]
    size_bytes: int
    repeats: int | None = None


@final
@dataclass(frozen=True, slots=True)
class SearchProgress:
    """Where a search is.

    Attributes:
        done: Architectures evaluated.
        trials: Architectures to evaluate; ``None`` if only time ends the search.
        refused: Proposals that made no valid network or cannot keep the budget.
        best: The best so far.
        searched_s: Seconds the search has taken, those of earlier calls included.
    """

    done: int
    trials: int | None
    refused: int
    best: TrialResult | None
    searched_s: float


@final
@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        best: The most accurate; of equals the fastest, then the first.
        trials: All that were evaluated, by number.
        refused: Proposals that made no valid network or cannot keep the budget.
        failed: Trials that were given up because they ended their process again and again.
        budget: What was limited.
        seed: Seed of the search.
    """

    best: TrialResult
    trials: tuple[TrialResult, ...]
    refused: int
    failed: int
    budget: Budget
    seed: int


def write_result(path: Path, result: SearchResult) -> None:
    """Write a result as JSON, whole or not at all."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read_result(path: Path) -> SearchResult:
    """Read the ``result.json`` of a search.

    Raises:
        ResumeError: The file is missing or is no result.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=SearchResult)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ResumeError(
            f"{path} is no result of a search ({error}); run the search again in its folder"
        ) from error
