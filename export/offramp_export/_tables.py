"""What ``offramp export`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.cli import console

if TYPE_CHECKING:
    from offramp_export.footprint import StageFootprint
    from offramp_export.parity import ExitParity, Parity
    from offramp_export.report import ExportReport

__all__ = ["print_report"]

_UNKNOWN = "-"


def print_report(report: ExportReport, title: str) -> None:
    """Two tables: how programs compare with torch, and what their stages take."""
    parities = [program.parity for program in report.programs]
    judged = any(parity.exits[0].accuracy is not None for parity in parities)
    policies = [parity.policy for parity in parities if parity.policy is not None]
    columns = ["program", "exit", "largest difference", "mean difference", "same label"]
    columns += ["accuracy", "in torch"] if judged else []
    columns += ["same exit", *(f"same under {name}" for name in policies[:1])]
    rows = [
        _exit_row(parity, exit, found)
        for parity in parities
        for exit, found in enumerate(parity.exits)
    ]
    images = parities[0].images
    console.table(columns, rows, title=f"{title}, against torch on {images} images")
    stages = [
        _stage_row(program.program, name, found)
        for program in report.programs
        for name, found in enumerate(program.stages)
    ]
    if stages:
        columns = ["program", "stage", "weights kB", "shared kB", "activations kB", "planned kB"]
        columns += ["delegated", "left to plain kernels"]
        console.table(columns, stages, title="What each stage takes")


def _exit_row(parity: Parity, exit: int, found: ExitParity) -> list[object]:
    row: list[object] = [
        parity.program,
        exit,
        f"{found.difference:.1e}",
        f"{found.mean_difference:.1e}",
        f"{found.label_agreement:.1%}",
    ]
    if found.accuracy is not None:
        row += [f"{found.accuracy:.1%}", f"{found.torch_accuracy:.1%}"]
    row.append(f"{parity.exit_agreement:.1%}")
    if parity.policy_agreement is not None:
        row.append(f"{parity.policy_agreement:.1%}")
    return row


def _stage_row(program: str, stage: int, found: StageFootprint) -> list[object]:
    delegation = found.delegation
    left = [] if delegation is None else sorted(delegation.left.items())
    return [
        program,
        stage,
        _kilobytes(found.weight_bytes),
        _kilobytes(found.shared_bytes),
        _kilobytes(found.peak_activation_bytes),
        _kilobytes(found.planned_bytes),
        _UNKNOWN if delegation is None else f"{delegation.share:.0%}",
        ", ".join(f"{name} ({count})" for name, count in left) or _UNKNOWN,
    ]


def _kilobytes(size_bytes: int | None) -> str:
    return _UNKNOWN if size_bytes is None else f"{size_bytes / 1000:,.1f}"
