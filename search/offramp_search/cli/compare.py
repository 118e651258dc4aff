"""The command ``offramp compare``."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli import console

if TYPE_CHECKING:
    from offramp_search.comparison import ComparedRun

__all__ = ["compare"]

_COLUMNS = (
    "run",
    "sampler",
    "seed",
    "budget",
    "trials",
    "refused",
    "accuracy",
    "mean ms",
    "found after",
    "hypervolume",
)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="--out folders of finished searches.", show_default=False),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(help="Write the Pareto fronts here, a PNG file.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Put searches side by side: what they found, after how many trials, and their Pareto fronts.

    Accuracy is that on the search-validation images and latency is predicted, as the searches saw
    them. The hypervolume is what a run's front dominates, as a share of what all fronts together
    do. Runs on other images or another device are refused.
    """
    from offramp_search.comparison import compare_runs, plot_runs

    compared = compare_runs(runs)
    if plot is not None:
        plot_runs(plot, compared)

    def render() -> None:
        console.table(_COLUMNS, [_cells(run) for run in compared])
        if plot is not None:
            print(f"plot: {plot}")

    console.emit(as_json, compared, render)


def _cells(run: ComparedRun) -> tuple[str, ...]:
    limits = (f"{name} {limit:.4g}" for name, limit in run.budget.items() if limit is not None)
    return (
        run.name,
        run.sampler,
        str(run.seed),
        ", ".join(limits) or "-",
        str(run.trials),
        str(run.refused),
        f"{run.accuracy:.2%}",
        f"{run.mean_ms:.3f}",
        str(run.trials_to_best),
        f"{run.hypervolume:.3f}",
    )
