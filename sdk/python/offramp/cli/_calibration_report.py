"""Calibrations as commands show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.cli import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp.bundle import Policy
    from offramp.calibration import CalibrationReport

__all__ = ["amount", "render"]

_WORST_CLASSES = 5
_WORDS = {
    "accuracy_drop": "drop of accuracy",
    "class_drop": "drop in any class",
    "disagreement": "disagreement",
    "early_exit_drop": "drop among early",
    "mean_latency": "mean latency",
    "selective_error": "error of answers given",
    "tail_latency": "tail latency",
}


def amount(kind: str, value: float) -> str:
    """A value of a certificate for people."""
    return f"{value:.3f} ms" if kind in ("mean_latency", "tail_latency") else f"{value:.2%}"


def render(reports: Sequence[CalibrationReport], labels: Sequence[str]) -> None:
    """Print what was certified, what was only seen, and what could not be had."""
    policies = [report.policy for report in reports if report.policy is not None]
    if policies:
        _policies(policies)
        _certificates(policies)
        _exits([report for report in reports if report.policy is not None])
    for policy in policies:
        for certificate in policy.certificates:
            print(certificate.claim)
    for report in reports:
        _worst_classes(report, labels)
        for warning in report.warnings:
            print(f"Note: {warning}.")
        if not report.feasible:
            print(f"Not written: {report.why_not()}.")


def _policies(policies: Sequence[Policy]) -> None:
    console.table(
        ("program", "policy", "images per exit", "accuracy", "withheld below"),
        [
            (
                policy.program,
                policy.name,
                " ".join(f"{share:.1%}" for share in policy.exit_shares),
                "-" if policy.accuracy is None else f"{policy.accuracy:.2%}",
                "-" if policy.abstain_below is None else f"{policy.abstain_below:.3f}",
            )
            for policy in policies
        ],
    )


def _certificates(policies: Sequence[Policy]) -> None:
    console.table(
        ("program", "policy", "promise", "seen", "certified", "promised"),
        [
            (
                policy.program,
                policy.name,
                _WORDS[certificate.kind],
                amount(certificate.kind, certificate.observed),
                amount(certificate.kind, certificate.upper_bound),
                amount(certificate.kind, certificate.limit),
            )
            for policy in policies
            for certificate in policy.certificates
        ],
    )


def _exits(reports: Sequence[CalibrationReport]) -> None:
    console.table(
        ("program", "exit", "share", "95 % interval", "accuracy", "drop there", "unlike"),
        [
            (
                report.program,
                exit.exit,
                f"{exit.share:.1%}",
                f"{exit.share_low:.1%} to {exit.share_high:.1%}",
                _percent(exit.accuracy),
                _percent(exit.drop),
                _percent(exit.disagreement),
            )
            for report in reports
            for exit in report.exits
        ],
        title="Seen on the certification images, exit by exit (not certified):",
    )


def _worst_classes(report: CalibrationReport, labels: Sequence[str]) -> None:
    worst = sorted(report.classes, key=lambda one: -one.drop)[:_WORST_CLASSES]
    if not worst or worst[0].drop <= 0.0:
        return
    listed = ", ".join(
        f"{labels[one.index]} {one.drop:.1%} (at most {one.drop_at_most:.1%})" for one in worst
    )
    print(f"Classes of {report.program} that lose most, each by itself: {listed}.")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
