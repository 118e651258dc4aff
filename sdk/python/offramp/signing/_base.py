"""Who signs, and whom a loader trusts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, final

from offramp.signing import _openssf

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from model_signing import signing, verifying

    from offramp.bundle import Bundle

__all__ = ["Signer", "Trust", "signature_path"]


def signature_path(bundle: str | os.PathLike[str]) -> Path:
    """Where the signature of a bundle is unless somebody says otherwise: beside it.

    Args:
        bundle: A folder or a zip; links are followed.

    Returns:
        The bundle's own path with ``.sig`` after it.
    """
    path = Path(bundle).resolve()
    return path.with_name(f"{path.name}.sig")


class Signer(ABC):
    """Signs bundles."""

    @abstractmethod
    def _configure(self, config: signing.Config) -> signing.Config:
        """Give the library what it signs with."""

    @final
    def sign(self, bundle: Bundle, signature: str | os.PathLike[str] | None = None) -> Path:
        """Sign every file of a bundle, the manifest included.

        The signature of a folder is that of its zip, too. It says nothing about the folder's name,
        so a bundle may be moved and renamed, and it can be verified by ``model_signing verify``.

        Args:
            bundle: Open, and so checked.
            signature: The file to write; ``None`` means ``signature_path``.

        Returns:
            The file written.

        Raises:
            SignatureError: The key or certificate cannot be used, or the file would lie inside the
                bundle, where nothing unlisted may be.
            IntegrityError: A file of the bundle changed since it was opened.
            MissingExtraError: The extra ``signing`` is not installed.
        """
        target = signature_path(bundle.path) if signature is None else Path(signature)
        _openssf.sign(self._configure, bundle, target)
        return target


class Trust(ABC):
    """What a signature must be made with for a bundle to be opened."""

    @abstractmethod
    def _configure(self, config: verifying.Config) -> verifying.Config:
        """Give the library what it verifies against."""

    @final
    def verify(self, digests: Mapping[str, str], signature: Path, bundle: Path) -> None:
        """Compare the files of a bundle with its signature.

        ``Bundle.open`` calls this before anything in the bundle is parsed.

        Args:
            digests: Path inside the bundle -> SHA-256 in hexadecimal, of every file there is.
            signature: The signature's file.
            bundle: Named in messages only.

        Raises:
            SignatureError: There is no signature, it is not by whom it should be, or the files are
                not those that were signed.
            MissingExtraError: The extra ``signing`` is not installed.
        """
        _openssf.verify(self._configure, digests, signature, bundle)
