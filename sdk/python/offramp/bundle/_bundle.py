"""A bundle that has been checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, final

import msgspec

from offramp._files import write_atomically
from offramp.bundle._checks import LARGEST_BUNDLE_BYTES, check_manifest, listed_files
from offramp.bundle._parse import LARGEST_MANIFEST_BYTES, encode_manifest, parse_manifest
from offramp.bundle._sources import MANIFEST, FolderSource, Source, is_leftover, open_source
from offramp.bundle._vectors import Vectors, decode_vectors
from offramp.errors import BundleError, IntegrityError
from offramp.signing import signature_path

if TYPE_CHECKING:
    import os

    from offramp.bundle._manifest import FileEntry, LatencyEntry, Manifest, Policy, ProgramEntry
    from offramp.signing import Trust

__all__ = ["Bundle"]


@final
class Bundle:
    """A bundle whose every file has been compared with its manifest.

    ``Bundle.open`` makes one. Checked, in this order, before any runtime parses a byte: size and
    schema of the manifest; that it does not contradict itself; that every listed file, and no
    other, is there and is a plain file; sizes; SHA-256. ``read`` compares the bytes it returns
    once more, so a file exchanged later is not handed on. Whether a program's own signatures,
    shapes and quantisation are those of the manifest is checked when a runtime opens it.
    """

    def __init__(self, path: Path, manifest: Manifest, source: Source) -> None:
        self._path = path
        self._manifest = manifest
        self._source = source

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        trust: Trust | None = None,
        signature: str | os.PathLike[str] | None = None,
    ) -> Bundle:
        """Open and check a bundle.

        Args:
            path: A folder, or a zip with stored members.
            trust: Who must have signed it, such as ``TrustedKey("key.pub")``; every byte is then
                compared with the signature before anything is parsed. ``None`` asks for no
                signature, and ignores one that is there.
            signature: The signature's file; ``None`` means the bundle's path with ``.sig`` after
                it.

        Raises:
            BundleError: There is no bundle.
            SignatureError: It is not signed by whom it must be, or was changed since.
            ManifestError: The manifest breaks its schema or contradicts itself.
            IntegrityError: A file is missing, unlisted, a link, or not the one that was listed.
        """
        if signature is not None and trust is None:
            raise ValueError("a signature is given and nobody to trust; expected trust=... as well")
        path = Path(path)
        source = open_source(path)
        data = source.read(MANIFEST, LARGEST_MANIFEST_BYTES)
        if trust is not None:
            # What is parsed below are the very bytes whose hash is verified here.
            place = signature_path(path) if signature is None else Path(signature)
            trust.verify(_digests(source, data), place, path)
        manifest = parse_manifest(data)
        check_manifest(manifest)
        bundle = cls(path, manifest, source)
        files = listed_files(manifest)
        source.check_members({file.path for file in files})
        for file in files:
            bundle.read(file)
        return bundle

    @property
    def path(self) -> Path:
        """Where the bundle is."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """Everything there is to know about it."""
        return self._manifest

    def program(self, name: str | None = None) -> ProgramEntry:
        """A program by its name.

        Args:
            name: ``runtime/precision``; ``None`` takes ``litert/int8`` if it has a policy, else
                the first program listed.

        Raises:
            BundleError: There is no such program; the message lists those there are.
        """
        programs = {program.name: program for program in self._manifest.programs}
        if name is None:
            has_policy = any(policy.program == "litert/int8" for policy in self._manifest.policies)
            name = "litert/int8" if has_policy else self._manifest.programs[0].name
        if name not in programs:
            raise BundleError(f"no program {name!r} in {self._path}; it has {', '.join(programs)}")
        return programs[name]

    def policy(self, program: str, name: str | None = None) -> Policy:
        """A policy of a program.

        Args:
            program: ``runtime/precision``.
            name: The policy's name; ``None`` takes ``default``, or the only one there is.

        Raises:
            BundleError: There is no such policy; the message says what there is, or what to run.
        """
        self.program(program)
        policies = {
            policy.name: policy for policy in self._manifest.policies if policy.program == program
        }
        if not policies:
            raise BundleError(
                f"{self._path} has no policy for {program}; make one with "
                f"`offramp calibrate {self._path} FOLDER --program {program}`, "
                "or run every image to the last exit with policy='last'"
            )
        if name is None:
            name = next(iter(policies)) if len(policies) == 1 else "default"
        if name not in policies:
            raise BundleError(
                f"no policy {name!r} for {program} in {self._path}; it has {', '.join(policies)}"
            )
        return policies[name]

    def read(self, entry: FileEntry) -> bytes:
        """The content of a listed file, compared with its size and SHA-256.

        Raises:
            IntegrityError: The file is not the one that was listed.
        """
        data = self._source.read(entry.path, entry.size_bytes)
        if len(data) != entry.size_bytes:
            found = f"more than {entry.size_bytes}" if len(data) > entry.size_bytes else len(data)
            raise IntegrityError(
                f"{entry.path} has {found} bytes, expected {entry.size_bytes}; copy the bundle anew"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != entry.sha256:
            raise IntegrityError(
                f"{entry.path} has SHA-256 {digest}, expected {entry.sha256}; copy the bundle anew"
            )
        return data

    def digests(self) -> dict[str, str]:
        """SHA-256, in hexadecimal, of every file: what a signature signs.

        Raises:
            IntegrityError: A file changed since the bundle was opened.
        """
        data = self._source.read(MANIFEST, LARGEST_MANIFEST_BYTES)
        if parse_manifest(data) != self._manifest:
            raise IntegrityError(f"{MANIFEST} of {self._path} changed since it was opened")
        for entry in listed_files(self._manifest):
            self.read(entry)
        return _digests(self._source, data)

    def vectors(self) -> Vectors:
        """The test images and the recorded logits of every program.

        Raises:
            BundleError: The file does not hold what the manifest says.
        """
        return decode_vectors(self.read(self._manifest.vectors), self._manifest)

    def add_policy(self, policy: Policy) -> Bundle:
        """Write a policy into the manifest, in place of one of the same program and name.

        The exits that the test images take under it are recorded with it.

        Args:
            policy: For one of the bundle's programs.

        Returns:
            The bundle as it is now; this object still shows it as it was.

        Raises:
            BundleError: The bundle is a zip, or has no such program.
            ManifestError: The policy does not fit the bundle's stages.
        """
        # The policy package re-exports the struct from this one.
        from offramp.policy import choose_exits

        self.program(policy.program)
        others = tuple(
            known
            for known in self._manifest.policies
            if (known.program, known.name) != (policy.program, policy.name)
        )
        fresh = msgspec.structs.replace(policy, vector_exits=())
        check_manifest(msgspec.structs.replace(self._manifest, policies=(*others, fresh)))
        exits = choose_exits(policy, self.vectors().logits[policy.program])
        recorded = msgspec.structs.replace(policy, vector_exits=tuple(exits.tolist()))
        return self._rewrite(policies=(*others, recorded))

    def add_latency(self, entry: LatencyEntry) -> Bundle:
        """Write a measurement into the manifest, in place of the same one made before.

        The same means: of the same program, on the same device, with as many threads.

        Returns:
            The bundle as it is now; this object still shows it as it was.

        Raises:
            BundleError: The bundle is a zip.
            ManifestError: The measurement does not fit the bundle's programs and stages.
        """
        key = (entry.program, entry.device, entry.threads)
        others = tuple(
            known
            for known in self._manifest.latencies
            if (known.program, known.device, known.threads) != key
        )
        return self._rewrite(latencies=(*others, entry))

    def _rewrite(self, **changes: object) -> Bundle:
        if not isinstance(self._source, FolderSource):
            raise BundleError(f"{self._path} is a zip; unpack it into a folder to change it")
        manifest = msgspec.structs.replace(self._manifest, **changes)
        check_manifest(manifest)
        data = encode_manifest(manifest)
        # What a program could not read back must not be written.
        parse_manifest(data)
        for entry in self._path.iterdir():
            if is_leftover(entry.name):
                entry.unlink()
        write_atomically(self._path / MANIFEST, data)
        return Bundle(self._path, manifest, self._source)


def _digests(source: Source, manifest: bytes) -> dict[str, str]:
    members = {path: size for path, size in source.members().items() if not path.endswith("/")}
    if (total := sum(members.values())) > LARGEST_BUNDLE_BYTES + LARGEST_MANIFEST_BYTES:
        raise IntegrityError(f"the bundle holds {total} bytes, expected at most 2 GiB")
    return {
        path: hashlib.sha256(manifest if path == MANIFEST else source.read(path, size)).hexdigest()
        for path, size in members.items()
    }
