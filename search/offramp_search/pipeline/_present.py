"""An outcome as a table, as figures, and as a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offramp_search.report import Point, plot_tradeoff

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from offramp_search.engine import Confirmed
    from offramp_search.pipeline._measure import Measured
    from offramp_search.pipeline._outcome import Outcome, Row

__all__ = [
    "CHECK_COLUMNS",
    "COLUMNS",
    "as_figures",
    "check_rows",
    "correction_line",
    "plot_outcome",
    "table_rows",
]

COLUMNS = ("program", "network", "accuracy", "mean ms", "median", "p90", "ratio", "exits")
"""Accuracy on the test split; the ratio of the mean to the static network's; who left where."""

CHECK_COLUMNS = ("trial", "predicted ms", "measured ms", "off", "")
"""Latency of each stage, from the latency table and of the whole network, before any training."""


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


def check_rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """Cells for ``CHECK_COLUMNS``: each architecture that was measured whole in the search."""
    confirmed = outcome.confirmed
    if confirmed is None:
        return []
    return [
        (
            "-" if check.trial is None else str(check.trial),
            _stages(check.predicted_ms),
            _stages(check.measured_ms),
            f"{check.off:.0%}",
            "chosen" if check is confirmed.chosen else "",
        )
        for check in confirmed.checks
    ]


def correction_line(outcome: Outcome) -> str | None:
    """What predictions were multiplied with, or that the winner was not measured; else nothing."""
    confirmed = outcome.confirmed
    if confirmed is None:
        return None
    if confirmed.chosen is None:
        return "the architecture was not measured whole: the recorded device does not know it"
    if all(factor == 1 for factor in confirmed.correction):
        return "predicted latencies were not corrected"
    by = ", ".join(f"{factor:.3g}" for factor in confirmed.correction)
    return f"predicted latencies were corrected, stage by stage, by factors of {by}"


def _stages(stage_ms: Sequence[float]) -> str:
    return " + ".join(f"{ms:.3f}" for ms in stage_ms)


def _smaller(share: float) -> str:
    return "static, trained on" if share == 1 else f"static, {share:.0%} wide"


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
        "search": None if outcome.confirmed is None else _search_figures(outcome.confirmed),
        "multiply_adds": {
            "static": sum(stage.multiply_adds for stage in outcome.static.manifest.stages),
            "dynamic": [stage.multiply_adds for stage in outcome.dynamic.manifest.stages],
        },
        "programs": {row.program: _row_figures(row) for row in outcome.rows},
    }


def _search_figures(confirmed: Confirmed) -> dict[str, Any]:
    result, chosen = confirmed.result, confirmed.chosen
    return {
        "trials": len(result.trials),
        "refused": result.refused,
        "stage_ms": result.best.stage_ms,
        "search_accuracy": result.best.solution.accuracy,
        "mean_ms": result.best.solution.mean_ms,
        "predicted_stage_ms": None if chosen is None else chosen.predicted_ms,
        "measured_stage_ms": None if chosen is None else chosen.measured_ms,
        "correction": confirmed.correction,
        "measured": [
            {
                "trial": check.trial,
                "predicted_stage_ms": check.predicted_ms,
                "measured_stage_ms": check.measured_ms,
            }
            for check in confirmed.checks
        ],
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
