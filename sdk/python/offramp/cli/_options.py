"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from offramp.bundle import Bundle

__all__ = [
    "BundleArgument",
    "DataArgument",
    "JsonOption",
    "ProgramOption",
    "ProgramsOption",
    "SignatureOption",
    "ThreadsOption",
    "TrustedCertificateOption",
    "TrustedKeyOption",
    "WorkersOption",
    "open_bundle",
    "say_unsigned",
]

BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle: a folder, or a zip.", show_default=False)
]
DataArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA_FOLDER",
        help="Images, in one sub-folder per class named after its label.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ProgramOption = Annotated[
    str | None,
    typer.Option(
        "--program",
        metavar="RUNTIME/PRECISION",
        help="Which program; without it litert/int8 if it has a policy, else the first one.",
        show_default=False,
    ),
]
ProgramsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--program",
        metavar="RUNTIME/PRECISION",
        help="Which program; may be given several times. Without it all LiteRT programs.",
        show_default=False,
    ),
]
SignatureOption = Annotated[
    Path | None,
    typer.Option(
        "--signature",
        metavar="FILE",
        help="The signature; without it BUNDLE.sig, beside the bundle.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads the kernels may use.")]
WorkersOption = Annotated[
    int,
    typer.Option(
        min=1, help="Images predicted at the same time; each worker is a copy of the program."
    ),
]
TrustedCertificateOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--trusted-certificate",
        metavar="PEM",
        help="The bundle must be signed by someone whom this authority certified; may be given "
        "several times.",
        show_default=False,
    ),
]
TrustedKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--trusted-key",
        metavar="PEM",
        help="The bundle must be signed with the private half of this public key.",
        show_default=False,
    ),
]


def open_bundle(
    path: Path, key: Path | None, certificates: list[Path] | None, signature: Path | None
) -> Bundle:
    """Open a bundle that is signed by whom the options say, or any if they say nothing."""
    from offramp.bundle import Bundle
    from offramp.signing import Trust, TrustedCertificates, TrustedKey

    if key is not None and certificates:
        raise typer.BadParameter("give --trusted-key or --trusted-certificate, not both")
    trust: Trust | None = None
    if key is not None:
        trust = TrustedKey(key)
    elif certificates:
        trust = TrustedCertificates(*certificates)
    if signature is not None and trust is None:
        raise typer.BadParameter("--signature takes --trusted-key or --trusted-certificate as well")
    return Bundle.open(path, trust=trust, signature=signature)


def say_unsigned(bundle: Bundle, key: Path | None, certificates: list[Path] | None) -> None:
    """Say that a bundle which had to be signed was changed by this very command."""
    if key is not None or certificates:
        print(
            f"{bundle.path} changed, and its signature no longer fits: offramp sign makes another."
        )
