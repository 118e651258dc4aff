"""Making bundles: a folder that appears whole, and the zip of one."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.bundle._bundle import Bundle
from offramp.bundle._checks import check_manifest, listed_files
from offramp.bundle._manifest import FileEntry
from offramp.bundle._parse import encode_manifest
from offramp.bundle._sources import MANIFEST
from offramp.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offramp.bundle._manifest import Manifest

__all__ = ["describe_file", "pack_bundle", "write_bundle"]


def describe_file(path: str, data: bytes) -> FileEntry:
    """The manifest's entry for a file.

    Args:
        path: Inside the bundle, relative, with forward slashes.
        data: The whole content.
    """
    return FileEntry(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def write_bundle(
    path: Path, manifest: Manifest, files: Mapping[str, bytes], *, overwrite: bool = False
) -> Bundle:
    """Write a bundle folder, so that it is either whole or not there.

    Args:
        path: The folder to make; the folder around it must exist.
        manifest: Lists every file with its size and SHA-256.
        files: Path inside the bundle -> content.
        overwrite: Replace a bundle that is there.

    Raises:
        BundleError: The path exists and is no bundle, or may not be overwritten.
        ManifestError: The manifest contradicts itself.
        IntegrityError: Files and manifest do not agree.
    """
    path = Path(path)
    check_manifest(manifest)
    if path.exists() or path.is_symlink():
        if not overwrite:
            raise BundleError(f"{path} exists; choose another path, or allow overwriting")
        if path.is_symlink() or not (path / MANIFEST).is_file():
            raise BundleError(f"{path} exists and is no bundle, so it is not overwritten")
    fresh = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
    try:
        fresh.mkdir()
        # The listed paths have been checked, those of the mapping have not.
        for entry in listed_files(manifest):
            if entry.path in files:
                target = fresh / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(files[entry.path])
        if extra := sorted(set(files) - {entry.path for entry in listed_files(manifest)}):
            raise BundleError(f"{extra[0]} is given and is not listed in the manifest")
        (fresh / MANIFEST).write_bytes(encode_manifest(manifest))
        Bundle.open(fresh).vectors()
        _take_place(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Bundle.open(path)


def pack_bundle(bundle: Bundle, path: Path, *, overwrite: bool = False) -> Bundle:
    """Write a bundle as one zip with stored members; equal bundles give equal bytes.

    Args:
        bundle: Any bundle.
        path: The zip to make.
        overwrite: Replace a file that is there.

    Raises:
        BundleError: The path exists.
        IntegrityError: A file of the bundle changed since it was opened.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise BundleError(f"{path} exists; choose another path, or allow overwriting")
    fresh = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
    try:
        with zipfile.ZipFile(fresh, "x", zipfile.ZIP_STORED) as archive:
            # A ZipInfo of its own carries no date, and 0644 as permissions.
            archive.writestr(_member(MANIFEST), encode_manifest(bundle.manifest))
            for entry in listed_files(bundle.manifest):
                archive.writestr(_member(entry.path), bundle.read(entry))
        Bundle.open(fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return Bundle.open(path)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o100644 << 16
    return info


def _take_place(fresh: Path, path: Path) -> None:
    if not path.exists():
        fresh.rename(path)
        return
    # Folders cannot be exchanged in one step; the old one is kept until the new one has the name.
    old = path.with_name(f".{path.name}.{os.urandom(6).hex()}.old")
    path.rename(old)
    try:
        fresh.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)
