"""An outcome as a table, as figures, and as a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offramp_search.report import Point, plot_tradeoff

if TYPE_CHECKING:
    from pathlib import Path

    from offramp_search.engine import SearchResult
    from offramp_search.pipeline._measure import Measured
    from offramp_search.pipeline._outcome import Outcome, Row

__all__ = ["COLUMNS", "as_figures", "plot_outcome", "table_rows"]

COLUMNS = ("program", "network", "accuracy", "mean ms", "median", "p90", "ratio", "exits")
"""Accuracy on the test split; the ratio of the mean to the static network's; who left where."""


def table_rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """Cells for the columns: the static networks and the dynamic one of each program."""
    rows = []
    for row in outcome.rows:
        shares = "/".join(f"{100 * share:.0f}" for share in row.exit_shares)
        rows.append(_cells(row.program, "static", row.static, 1.0, "-"))
        for share, measured in sorted(row.smaller.items(), reverse=True):
            ratio = measured.latency.mean_ms / row.static.latency.mean_ms
            rows.append(_cells(row.program, _smaller(share), measured, ratio, "-"))
        rows.append(_cells(row.program, "dynamic", row.dynamic, row.mean_ratio, shares))
    return rows


def _smaller(share: float) -> str:
    return f"static, {share:.0%} wide"


def _cells(
    program: str, network: str, measured: Measured, ratio: float, shares: str
) -> tuple[str, ...]:
    latency = measured.latency
    return (
        program,
        network,
        f"{measured.accuracy:.2%}",
        f"{latency.mean_ms:.3f}",
        f"{latency.median_ms:.3f}",
        f"{latency.p90_ms:.3f}",
        f"{ratio:.2f}",
        shares,
    )


def as_figures(outcome: Outcome) -> dict[str, Any]:
    """The raw figures behind the table; the times of single images stay in the run's folder."""
    return {
        "budget": outcome.budget,
        "static_ms": outcome.static_ms,
        "architecture": outcome.architecture,
        "search": None if outcome.found is None else _search_figures(outcome.found),
        "multiply_adds": {
            "static": sum(stage.multiply_adds for stage in outcome.static.manifest.stages),
            "dynamic": [stage.multiply_adds for stage in outcome.dynamic.manifest.stages],
        },
        "programs": {row.program: _row_figures(row) for row in outcome.rows},
    }


def _search_figures(found: SearchResult) -> dict[str, Any]:
    return {
        "trials": len(found.trials),
        "refused": found.refused,
        "predicted_stage_ms": found.best.stage_ms,
        "search_accuracy": found.best.solution.accuracy,
        "predicted_mean_ms": found.best.solution.mean_ms,
    }


def _row_figures(row: Row) -> dict[str, Any]:
    return {
        "test_images": len(row.static.correct),
        "static": _measured_figures(row.static),
        "dynamic": _measured_figures(row.dynamic),
        "last_exit": _measured_figures(row.last_exit),
        "mean_ratio": row.mean_ratio,
        "median_ratio": row.median_ratio,
        "exit_shares": row.exit_shares,
        "certificate": row.certificate,
        "smaller": {
            f"{share:.0%}": _measured_figures(measured) for share, measured in row.smaller.items()
        },
        "equal_share": row.equal_share,
        "speedup_over_equal": row.speedup_over_equal,
    }


def _measured_figures(measured: Measured) -> dict[str, float]:
    latency = measured.latency
    return {
        "accuracy": measured.accuracy,
        "mean_ms": latency.mean_ms,
        "median_ms": latency.median_ms,
        "p90_ms": latency.p90_ms,
    }


def plot_outcome(outcome: Outcome, path: Path) -> None:
    """Plot the measured points, and the curves that other thresholds would give."""
    points = [
        point
        for row in outcome.rows
        for point in (
            _point(row.program, "static", row.static),
            _point(row.program, "dynamic", row.dynamic),
            *(
                _point(row.program, _smaller(share), measured)
                for share, measured in row.smaller.items()
            ),
        )
    ]
    plot_tradeoff(
        path,
        points,
        curves=outcome.curves,
        title="Early exits on this machine, one thread, one image at a time",
    )


def _point(program: str, network: str, measured: Measured) -> Point:
    return Point(
        f"{network} {program}",
        measured.latency.mean_ms,
        measured.accuracy,
        group=program,
        is_static=network != "dynamic",
    )
