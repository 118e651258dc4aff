"""``offramp monitor``."""

# ruff: noqa: TC001, TC003 - typer reads the annotations at run time
from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli import console
from offramp.cli._options import JsonOption

if TYPE_CHECKING:
    from offramp.monitoring import LatencySummary, Summary

__all__ = ["monitor"]


def monitor(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="States of monitors, as offramp predict --monitor writes them; several are added "
            "up.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ],
    prometheus: Annotated[
        bool,
        typer.Option("--prometheus", help="Print the text format of Prometheus, version 0.0.4."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what monitors have counted: exits, confidences, latencies, drift, disagreement.

    Exits with 1 if an alarm for drift was raised, so that a script can act on it.
    """
    if prometheus and as_json:
        raise typer.BadParameter("choose one of --prometheus and --json")
    from offramp.monitoring import decode_state, merge, prometheus_text, summarize

    state = merge([decode_state(file.read_bytes(), str(file)) for file in files])
    summary = summarize(state)
    if prometheus:
        sys.stdout.write(prometheus_text(state))
    else:
        console.emit(as_json, summary, lambda: _render(summary))
    if any(part.alarm for part in summary.drift):
        raise typer.Exit(1)


def _render(summary: Summary) -> None:
    console.table(
        ("exit", "answers", "mean confidence", "PSI"),
        [
            (exit, f"{share:.1%}", _figure(confidence), _figure(index))
            for exit, (share, confidence, index) in enumerate(
                zip(
                    summary.exit_shares,
                    summary.mean_confidence,
                    summary.confidence_psi,
                    strict=True,
                )
            )
        ],
        title=f"{summary.predictions} predictions, {summary.deadline_rate:.1%} cut by a deadline",
    )
    console.table(
        ("time", "runs", "mean ms", "median ms", "p90 ms", "p99 ms", "largest ms"),
        [
            *(
                _times(f"stage {stage}", latency)
                for stage, latency in enumerate(summary.stage_latency)
            ),
            _times("prediction", summary.total_latency),
        ],
    )
    for part in summary.drift:
        shares = " ".join(f"{share:.1%}" for share in part.exit_shares)
        reference = " ".join(f"{share:.1%}" for share in part.reference_shares)
        verdict = (
            f"ALARM after {part.alarmed_at} predictions, in {part.alarms} of the monitors"
            if part.alarm
            else f"no alarm, {-part.evidence:.1f} nats below one"
        )
        print(f"Drift of {part.policy}: {verdict}. Exits {shares}, calibrated {reference}.")
    print(
        f"Shadow runs: {summary.shadow_runs}, of which the last exit would have answered "
        f"{summary.shadow_disagreements} differently; at most "
        f"{summary.shadow_disagreement_bound:.2%} of all images, with 95 % confidence."
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _times(name: str, latency: LatencySummary | None) -> tuple[str, ...]:
    if latency is None:
        return (name, "0", *"-----")
    times = (latency.mean_ms, latency.median_ms, latency.p90_ms, latency.p99_ms)
    return (name, str(latency.count), *map(_figure, (*times, latency.largest_ms)))
