"""Searches read back from their folders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import msgspec
import numpy as np

from offramp.errors import DataError, ResumeError
from offramp_search.comparison._front import hypervolume, pareto_front
from offramp_search.engine import read_result
from offramp_search.report import Point, plot_tradeoff

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from offramp_search.engine import SearchResult

__all__ = ["ComparedRun", "compare_runs", "plot_runs"]

_MUST_AGREE = ("device", "data", "signal")


@final
@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One search beside others.

    Attributes:
        name: The shortest end of its path that tells it from the others.
        sampler: What proposed.
        budget: What was limited, as the search's settings have it.
        seed: Of the search.
        trials: Architectures evaluated.
        refused: Proposals that made no network or kept no budget.
        failed: Trials that were given up.
        accuracy: Of the best on the search-validation split.
        mean_ms: Of the best, predicted.
        trials_to_best: Architectures evaluated up to and with the best.
        front: ``(mean_ms, accuracy)`` of its Pareto front, by latency.
        hypervolume: What the front dominates, as a share of what the fronts of all runs together
            dominate; the reference is the slowest and the least accurate point of any.
    """

    name: str
    sampler: str
    budget: dict[str, float | None]
    seed: int
    trials: int
    refused: int
    failed: int
    accuracy: float
    mean_ms: float
    trials_to_best: int
    front: tuple[tuple[float, float], ...]
    hypervolume: float


def compare_runs(folders: Sequence[Path]) -> tuple[ComparedRun, ...]:
    """Put searches side by side.

    Args:
        folders: ``--out`` folders of ``offramp search``, or folders of ``engine.search``.

    Raises:
        DataError: They cannot be compared: other images, another device, another signal.
        ResumeError: A folder holds no finished search.
    """
    if len({folder.resolve() for folder in folders}) != len(folders) or not folders:
        raise DataError(
            f"expected different runs, got {', '.join(map(str, folders)) or 'none'}; name each once"
        )
    searches = [_search_folder(folder) for folder in folders]
    settings = [_read_settings(folder / "search.json") for folder in searches]
    results = [read_result(folder / "result.json") for folder in searches]
    for folder, one in zip(folders, settings, strict=True):
        for name in _MUST_AGREE:
            if one.get(name) != settings[0].get(name):
                raise DataError(
                    f"{folder} was searched with {name} {one.get(name)!r} and {folders[0]} with "
                    f"{settings[0].get(name)!r}; only runs with the same one can be compared"
                )
    points = [_points(result) for result in results]
    everything = np.concatenate(points)
    reference = {
        "slowest_ms": float(everything[:, 0].max()),
        "worst_accuracy": float(everything[:, 1].min()),
    }
    whole = hypervolume(everything, **reference)
    return tuple(
        ComparedRun(
            name=name,
            sampler=one["sampler"],
            budget=one["budget"],
            seed=result.seed,
            trials=len(result.trials),
            refused=result.refused,
            failed=result.failed,
            accuracy=result.best.solution.accuracy,
            mean_ms=result.best.solution.mean_ms,
            trials_to_best=1 + [trial.number for trial in result.trials].index(result.best.number),
            front=tuple((float(ms), float(share)) for ms, share in own[pareto_front(own)]),
            # All points of all runs may be equal; then each has all there is.
            hypervolume=hypervolume(own, **reference) / whole if whole else 1.0,
        )
        for name, one, result, own in zip(
            _short_names(folders), settings, results, points, strict=True
        )
    )


def plot_runs(path: Path, runs: Sequence[ComparedRun]) -> None:
    """Plot the Pareto fronts and the best of each as a PNG file."""
    plot_tradeoff(
        path,
        [Point(f"{run.name}, best", run.mean_ms, run.accuracy, group=run.name) for run in runs],
        curves={run.name: run.front for run in runs},
        curve_label="{name}, Pareto front",
        title="Architectures found, on the search-validation images at predicted latency",
    )


def _search_folder(folder: Path) -> Path:
    for place in (folder / "search", folder):
        if (place / "result.json").exists() and (place / "search.json").exists():
            return place
    raise ResumeError(
        f"{folder} holds no finished search; give the --out folder of an `offramp search` that "
        "has ended"
    )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ResumeError(
            f"{path} does not hold the settings of a search ({error}); run the search again"
        ) from error


def _points(result: SearchResult) -> NDArray[np.float64]:
    return np.array(
        [(trial.solution.mean_ms, trial.solution.accuracy) for trial in result.trials], np.float64
    )


def _short_names(folders: Sequence[Path]) -> list[str]:
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different paths have different names")
