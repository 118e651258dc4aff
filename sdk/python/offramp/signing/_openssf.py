"""OpenSSF model signing, given hashes instead of a folder.

The library would walk and hash the bundle itself, at another moment than the one at which it is
read; a file exchanged in between would pass, and a zip would be one file. So it is given the hashes
of the very bytes that were read.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from offramp._files import write_atomically
from offramp._optional import require
from offramp._text import shown
from offramp.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from offramp.bundle import Bundle

__all__ = ["sign", "verify"]

_LARGEST_SIGNATURE_BYTES = 2**22


def sign(configure: Callable[[Any], Any], bundle: Bundle, target: Path) -> None:
    """Write a signature of all files of a bundle."""
    signing = require("model_signing.signing", extra="signing")
    if bundle.path.is_dir() and target.resolve().is_relative_to(bundle.path.resolve()):
        raise SignatureError(
            f"{target} lies inside the bundle, where nothing unlisted may be; put it beside it"
        )
    digests = bundle.digests()
    # The library writes in place; what is there stays until the new one is whole.
    fresh = target.with_name(f".{target.name}.unsigned")
    with _refusals(f"{bundle.path} cannot be signed"):
        config = configure(signing.Config()).set_hashing_config(_given(digests, bundle.path))
        try:
            config.sign(bundle.path, fresh)
            write_atomically(target, fresh.read_bytes())
        finally:
            fresh.unlink(missing_ok=True)


def verify(
    configure: Callable[[Any], Any], digests: Mapping[str, str], signature: Path, bundle: Path
) -> None:
    """Compare the hashes of all files of a bundle with a signature."""
    verifying = require("model_signing.verifying", extra="signing")
    if not signature.is_file():
        raise SignatureError(
            f"{bundle} has no signature at {signature}; expected one, since a trusted signer is "
            "asked for: get it from whoever made the bundle, or make it with `offramp sign`"
        )
    if (size := signature.stat().st_size) > _LARGEST_SIGNATURE_BYTES:
        raise SignatureError(
            f"{signature} has {size} bytes, expected a signature of at most "
            f"{_LARGEST_SIGNATURE_BYTES}"
        )
    with _refusals(f"{bundle} is refused, by its signature {signature}"):
        config = configure(verifying.Config()).set_hashing_config(_given(digests, bundle))
        config.verify(bundle, signature)


def _given(digests: Mapping[str, str], bundle: Path) -> Any:
    """The library's hashing, with nothing left to hash."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest  # the one class it does not export

    for path in digests:
        # The library normalises paths, and then one file would stand for two.
        if str(PurePosixPath(path)) != path:
            raise SignatureError(f"{path!r} is not a file that can be signed")

    class Found(manifest.Manifest):
        def __eq__(self, other: object) -> bool:
            # The library's own message prints the objects that it compares.
            if not isinstance(other, manifest.Manifest):
                return NotImplemented
            if faults := _differences(self, other):
                raise SignatureError(
                    f"{bundle} is not what was signed: {'; '.join(faults)}; get it anew, or sign "
                    "it again if you changed it yourself"
                )
            return True

        __hash__ = None  # type: ignore[assignment]

    class GivenHashes(hashing.Config):
        def hash(self, model_path: object, *, files_to_hash: object = None) -> manifest.Manifest:
            items = [
                manifest.FileManifestItem(
                    path=PurePosixPath(path), digest=Digest("sha256", bytes.fromhex(digest))
                )
                for path, digest in sorted(digests.items())
            ]
            kind = manifest.SerializationType.from_args(
                {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
            )
            return Found(bundle.name, items, kind)

        def add_ignored_paths(self, *, model_path: object, paths: Iterable[object]) -> None:
            """A signature may not say which files it does not care for."""

    make: Callable[[], Any] = GivenHashes
    return make()


def _differences(found: Any, signed: Any) -> list[str]:
    here, there = (
        {entry.identifier: entry.digest for entry in manifest.resource_descriptors()}
        for manifest in (found, signed)
    )
    return [
        *(f"{shown(path)} is not signed" for path in sorted(here.keys() - there.keys())),
        *(f"{shown(path)} is missing" for path in sorted(there.keys() - here.keys())),
        *(
            f"{shown(path)} was changed"
            for path in sorted(here.keys() & there.keys())
            if here[path] != there[path]
        ),
    ]


@contextlib.contextmanager
def _refusals(what: str) -> Iterator[None]:
    said = io.StringIO()
    try:
        # It prints a warning about signatures of its first versions.
        with contextlib.redirect_stdout(said):
            yield
    except SignatureError:
        raise
    # It raises whatever its JSON, ASN.1 and certificate readers raise; all of it means no.
    except Exception as error:
        raise SignatureError(f"{what}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    kind, text = type(error).__name__, str(error)
    if isinstance(error, FileNotFoundError):
        return f"there is no file {error.filename}"
    if kind == "InvalidSignature":
        return "it was not made with the trusted key, or was changed"
    if text.startswith("Key mismatch"):
        return "it was made with another key than the trusted one"
    if kind == "X509StoreContextError":
        return f"its certificate is not from a trusted authority ({text})"
    return f"{text or kind} ({kind})"
