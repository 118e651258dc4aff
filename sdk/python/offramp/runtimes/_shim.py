"""The compiled library that runs ExecuTorch programs without torch: found, or built."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from offramp._cache import cache_folder
from offramp._files import write_atomically
from offramp.errors import MissingExtraError, ProgramError

__all__ = ["build_shim", "executorch_version", "find_shim"]

_SOURCE = Path(__file__).with_name("executorch_shim.cpp")
_LIBRARIES = (
    "executorch",
    "executorch_kernels_optimized",
    "executorch_backend_xnnpack",
    "executorch_threadpool",
)
_TIMEOUT_S = 600
_OTHERS_MAY_WRITE = 0o022


def executorch_version() -> str | None:
    """The version of the executorch package; ``None`` if it is not installed."""
    try:
        return importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError:
        return None


def find_shim() -> Path | None:
    """The shim for the executorch package that is installed, if it was built on this machine.

    Looked for beside the Python environment, then in the user's cache. A file that others could
    have written is not taken: it would run in this process.
    """
    name = _file_name()
    if name is None:
        return None
    for folder in (environment_folder(), cache_folder()):
        if folder is not None and _is_ours(folder / name):
            return folder / name
    return None


def environment_folder() -> Path:
    """Where a shim for all users of the Python environment is kept."""
    return Path(sys.prefix) / "lib" / "offramp"


def build_shim(
    *, compiler: str | None = None, for_all_users: bool = False, force: bool = False
) -> Path:
    """Compile the shim against the executorch package that is installed; takes some ten seconds.

    The executorch package brings the headers and the libraries; torch is not needed.

    Args:
        compiler: A C++20 compiler; by default the one ``CXX`` names, or g++, clang++ or c++.
        for_all_users: Keep it in the Python environment instead of the user's cache.
        force: Build it even if it is there.

    Returns:
        The library, where ``find_shim`` finds it.

    Raises:
        MissingExtraError: executorch is not installed.
        ProgramError: There is no compiler, or it failed; the message holds what it wrote.
    """
    name = _file_name()
    package = _package_folder()
    if name is None or package is None:
        raise MissingExtraError(
            "the shim is compiled against the package 'executorch', which is not installed; "
            'run: pip install "offramp[executorch]"'
        )
    there = find_shim()
    if there is not None and not force:
        return there
    folder = environment_folder() if for_all_users else cache_folder()
    if folder is None:
        raise ProgramError("this user has no home for a cache; set XDG_CACHE_HOME to a folder")
    chosen = _compiler(compiler)
    libraries = package / "lib"
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / name
        done = subprocess.run(
            [
                *(chosen, "-std=c++20", "-O2", "-fPIC", "-shared"),
                "-DC10_USING_CUSTOM_GENERATED_MACROS",
                *("-I", str(package / "include")),
                *("-I", str(package / "include/executorch/runtime/core/portable_type/c10")),
                *(str(_SOURCE), "-o", str(made), f"-L{libraries}", f"-Wl,-rpath,{libraries}"),
                # Kernels and delegate register themselves when loaded; no symbol of theirs is used.
                "-Wl,--no-as-needed",
                *(f"-l{library}" for library in _LIBRARIES),
                "-Wl,--no-undefined",
            ],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            said = "; ".join(
                line.strip() for line in done.stderr.splitlines() if "error" in line.lower()
            )
            raise ProgramError(
                f"{chosen} could not build the shim for executorch {executorch_version()}: "
                f"{said or done.stderr.strip() or done.returncode}"
            )
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        target = folder / name
        write_atomically(target, made.read_bytes())
    target.chmod(0o755)
    return target


def _compiler(named: str | None) -> str:
    wanted = named or os.environ.get("CXX")
    for candidate in (wanted,) if wanted else ("g++", "clang++", "c++"):
        found = shutil.which(candidate)
        if found is not None:
            return found
    raise ProgramError(
        f"there is no C++ compiler{f' {wanted}' if wanted else ''}; install one that knows C++20 "
        "(Debian: apt-get install g++), or name it with CXX"
    )


def _package_folder() -> Path | None:
    # Without importing it: that would load torch.
    found = importlib.util.find_spec("executorch")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0])


def _file_name() -> str | None:
    """One file for each source, package, place of its libraries and kind of machine."""
    version, package = executorch_version(), _package_folder()
    if version is None or package is None:
        return None
    digest = hashlib.sha256(_SOURCE.read_bytes())
    for part in (version, str(package), platform.machine()):
        digest.update(b"\0" + part.encode())
    return f"executorch-shim-{digest.hexdigest()[:16]}.so"


def _is_ours(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_uid in (0, os.getuid()) and not status.st_mode & _OTHERS_MAY_WRITE
