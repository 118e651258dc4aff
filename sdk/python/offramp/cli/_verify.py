"""``offramp verify``."""

# ruff: noqa: TC001 - typer reads the annotations at run time
from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from offramp.cli import console
from offramp.cli._options import BundleArgument, JsonOption, ThreadsOption

if TYPE_CHECKING:
    from offramp.verification import ProgramCheck, VerificationReport

__all__ = ["verify"]


def verify(bundle: BundleArgument, threads: ThreadsOption = 1, as_json: JsonOption = False) -> None:
    """Check that a bundle's programs answer here as they did where it was made.

    Compares hashes, then logits, answers and exits on the bundle's own test images.
    """
    from offramp.bundle import Bundle
    from offramp.verification import verify as verify_bundle

    opened = Bundle.open(bundle)
    with console.progress("Running the test images") as progress:
        report = verify_bundle(opened, threads=threads, progress=progress)
    data = {"ok": report.ok, "programs": report.programs, "not_run": report.not_run}
    console.emit(as_json, data, lambda: _render(report))
    if not report.ok:
        raise typer.Exit(1)


def _render(report: VerificationReport) -> None:
    for check in report.programs:
        print(f"{check.program}: {_verdict(check)}")
    for skipped in report.not_run:
        print(f"{skipped.program}: not run: {skipped.reason}")
    if not report.programs:
        print("failed: nothing could be run, so nothing is known")


def _verdict(check: ProgramCheck) -> str:
    if check.error is not None:
        return f"failed: {check.error}"
    faults = [
        f"exit {exit}'s logits differ by {difference:.3g}, allowed are {tolerance:.3g}"
        for exit, (difference, tolerance) in enumerate(
            zip(check.differences, check.tolerances, strict=True)
        )
        if not difference <= tolerance
    ]
    if check.labels_differing:
        faults.append(f"{check.labels_differing} answers differ")
    faults += [
        f"{policy.exits_differing} images leave elsewhere under policy {policy.policy}"
        for policy in check.policies
        if policy.exits_differing
    ]
    if faults:
        return f"failed on {check.images} images: {'; '.join(faults)}"
    return (
        f"ok: {check.images} images, largest difference of logits {max(check.differences):.3g}, "
        f"policies: {len(check.policies)}"
    )
