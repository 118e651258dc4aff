"""``offramp verify``."""

# ruff: noqa: TC003 - typer reads the annotations at run time
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli import console
from offramp.cli._calibration_report import amount
from offramp.cli._options import (
    BundleArgument,
    JsonOption,
    SignatureOption,
    ThreadsOption,
    TrustedCertificateOption,
    TrustedKeyOption,
    open_bundle,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp.bundle import Bundle
    from offramp.calibration import CertificateCheck
    from offramp.verification import PolicyRecheck, ProgramCheck, VerificationReport

__all__ = ["verify"]


def verify(
    bundle: BundleArgument,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DATA_FOLDER",
            help="New images, in one sub-folder per class: check every certificate on them, too.",
            show_default=False,
        ),
    ] = None,
    unlabelled: Annotated[
        bool,
        typer.Option("--unlabelled", help="The images are of unknown class."),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Fail, too, if the images are too few to confirm a certificate."
        ),
    ] = False,
    threads: ThreadsOption = 1,
    trusted_key: TrustedKeyOption = None,
    trusted_certificate: TrustedCertificateOption = None,
    signature: SignatureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a bundle's programs answer here as they did where it was made.

    Compares hashes, then logits, answers and exits on the bundle's own test images. With --data
    also whether its certificates still hold, and exits with 1 if one does not. With a trusted key
    or certificate, its signature before all else.
    """
    from offramp.errors import DataError
    from offramp.verification import verify as verify_bundle

    if data is None and (unlabelled or strict):
        raise DataError("--unlabelled and --strict are about new images; give some with --data")
    opened = open_bundle(bundle, trusted_key, trusted_certificate, signature)
    signed = trusted_key is not None or bool(trusted_certificate)
    with console.progress("Running the test images") as progress:
        report = verify_bundle(opened, threads=threads, progress=progress)
    rechecks: tuple[PolicyRecheck, ...] = ()
    if data is not None:
        rechecks = _recheck(opened, data, labelled=not unlabelled, threads=threads)
    held = not any(one.broken or (strict and not one.confirmed) for one in rechecks)
    summary = {
        "ok": report.ok and held,
        "signed": signed,
        "programs": report.programs,
        "not_run": report.not_run,
        "certificates": rechecks,
    }

    def render() -> None:
        if signed:
            print("signature: ok")
        _render(report)
        if data is not None:
            _render_certificates(rechecks)

    console.emit(as_json, summary, render)
    if not (report.ok and held):
        raise typer.Exit(1)


def _recheck(
    bundle: Bundle, folder: Path, *, labelled: bool, threads: int
) -> tuple[PolicyRecheck, ...]:
    from offramp.cli._calibration_data import Folder
    from offramp.errors import BundleError
    from offramp.verification import verify_certificates

    if not any(policy.certificates for policy in bundle.manifest.policies):
        raise BundleError(f"{bundle.path} has no certificates; make one with `offramp calibrate`")
    found = Folder.open(folder, bundle.manifest.labels, labelled=labelled)
    images = found.load(bundle.manifest.input)
    with console.progress("Running the new images") as progress:
        return verify_certificates(bundle, images, found.labels, threads=threads, progress=progress)


def _render(report: VerificationReport) -> None:
    for check in report.programs:
        print(f"{check.program}: {_verdict(check)}")
    for skipped in report.not_run:
        print(f"{skipped.program}: not run: {skipped.reason}")
    if not report.programs:
        print("failed: nothing could be run, so nothing is known")


def _render_certificates(rechecks: Sequence[PolicyRecheck]) -> None:
    for one in rechecks:
        for check in one.checks:
            print(f"{one.program} policy {one.policy}: {check.kind} {_told(check)}")


def _told(check: CertificateCheck) -> str:
    if check.verdict == "not checked":
        return f"not checked: {check.reason}"
    kind = "share" if check.kind == "tail_latency" else check.kind
    text = (
        f"of at most {amount(kind, check.limit)} {check.verdict}: {check.images} images, seen "
        f"{amount(kind, check.observed)}, certified {amount(kind, check.upper_bound)}"
    )
    return f"{text} ({check.reason})" if check.reason else text


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
