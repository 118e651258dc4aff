"""``offramp sign``."""

# ruff: noqa: TC001, TC003 - typer reads the annotations at run time
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offramp.cli import console
from offramp.cli._options import BundleArgument, JsonOption, SignatureOption

__all__ = ["sign"]


def sign(
    bundle: BundleArgument,
    key: Annotated[
        Path,
        typer.Option(
            "--key",
            metavar="PEM",
            help="The private key, on the curve P-256, P-384 or P-521.",
            show_default=False,
        ),
    ],
    password: Annotated[
        str | None,
        typer.Option(
            "--password",
            envvar="OFFRAMP_KEY_PASSWORD",
            help="What the key is encrypted with, if it is.",
            show_default=False,
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="PEM",
            help="The key's certificate; it goes into the signature.",
            show_default=False,
        ),
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(
            "--chain",
            metavar="PEM",
            help="A certificate between the key's and the authority's; may be given several times.",
            show_default=False,
        ),
    ] = None,
    signature: SignatureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a bundle, so that a loader can insist on who made it.

    Uses OpenSSF model signing. Calibrating or measuring changes the bundle: sign it last.
    """
    from offramp.bundle import Bundle
    from offramp.signing import CertificateSigner, KeySigner, Signer

    signer: Signer
    if certificate is None:
        if chain:
            raise typer.BadParameter("--chain takes --certificate as well")
        signer = KeySigner(key, password=password)
    elif password is not None:
        raise typer.BadParameter("a key with a certificate must not be encrypted")
    else:
        signer = CertificateSigner(key, certificate, *(chain or ()))
    opened = Bundle.open(bundle)
    written = signer.sign(opened, signature)
    data = {"signature": str(written), "files": sorted(opened.digests())}
    console.emit(as_json, data, lambda: print(f"Signed {len(data['files'])} files: {written.name}"))
