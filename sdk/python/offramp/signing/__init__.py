"""Signatures of bundles: OpenSSF model signing, with keys or certificates, without a network."""

from offramp.signing._base import Signer, Trust, signature_path
from offramp.signing._certificates import CertificateSigner, TrustedCertificates
from offramp.signing._keys import KeySigner, TrustedKey

__all__ = [
    "CertificateSigner",
    "KeySigner",
    "Signer",
    "Trust",
    "TrustedCertificates",
    "TrustedKey",
    "signature_path",
]
