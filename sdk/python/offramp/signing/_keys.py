"""Elliptic-curve keys: the signer keeps one half, whoever loads has the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from offramp.signing._base import Signer, Trust

if TYPE_CHECKING:
    import os

    from model_signing import signing, verifying

__all__ = ["KeySigner", "TrustedKey"]


@final
class KeySigner(Signer):
    """Signs with a private key.

    Args:
        private_key: A PEM file with a key on the curve P-256, P-384 or P-521.
        password: What the file is encrypted with, if it is.
    """

    def __init__(self, private_key: str | os.PathLike[str], *, password: str | None = None) -> None:
        self._private_key = Path(private_key)
        self._password = password

    def _configure(self, config: signing.Config) -> signing.Config:
        # The library's annotation says str; what reads the key takes bytes only.
        password = None if self._password is None else self._password.encode()
        return config.use_elliptic_key_signer(
            private_key=self._private_key,
            password=password,  # type: ignore[arg-type]
        )


@final
class TrustedKey(Trust):
    """Trusts whoever has the private half of a key.

    Args:
        public_key: A PEM file with the public half. Whoever can exchange this file decides what is
            trusted: keep it where the bundle cannot write.
    """

    def __init__(self, public_key: str | os.PathLike[str]) -> None:
        self._public_key = Path(public_key)

    def _configure(self, config: verifying.Config) -> verifying.Config:
        return config.use_elliptic_key_verifier(public_key=self._public_key)
