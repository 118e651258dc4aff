"""Certificates: whoever loads trusts an authority, and the authority names the signers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from offramp.signing._base import Signer, Trust

if TYPE_CHECKING:
    import os

    from model_signing import signing, verifying

__all__ = ["CertificateSigner", "TrustedCertificates"]


@final
class CertificateSigner(Signer):
    """Signs with a private key, and puts its certificate into the signature.

    Args:
        private_key: A PEM file with a key on the curve P-256, P-384 or P-521.
        certificate: A PEM file with the key's certificate, which must allow digital signatures.
        chain: PEM files with the certificates between it and the authority.
    """

    def __init__(
        self,
        private_key: str | os.PathLike[str],
        certificate: str | os.PathLike[str],
        *chain: str | os.PathLike[str],
    ) -> None:
        self._private_key = Path(private_key)
        self._certificate = Path(certificate)
        self._chain = tuple(map(Path, chain))

    def _configure(self, config: signing.Config) -> signing.Config:
        return config.use_certificate_signer(
            private_key=self._private_key,
            signing_certificate=self._certificate,
            # Given none, the library fails; a certificate that is there twice changes nothing.
            certificate_chain=self._chain or (self._certificate,),
        )


@final
class TrustedCertificates(Trust):
    """Trusts every signer that an authority has given a certificate to.

    A certificate counts as it did when it was issued: one that has since expired or been withdrawn
    is still trusted, because a device may have neither a clock nor a network. To stop trusting a
    signer, change the authority.

    Args:
        certificates: PEM files with the authorities' own certificates, at least one.
    """

    def __init__(self, *certificates: str | os.PathLike[str]) -> None:
        # Given none, the library would trust every authority that browsers trust.
        if not certificates:
            raise ValueError("no certificates are given, expected at least one to trust")
        self._certificates = tuple(map(Path, certificates))

    def _configure(self, config: verifying.Config) -> verifying.Config:
        return config.use_certificate_verifier(certificate_chain=self._certificates)
