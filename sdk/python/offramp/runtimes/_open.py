"""From a bundle to a loaded program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.errors import ProgramError
from offramp.runtimes._litert import LiteRTRuntime

if TYPE_CHECKING:
    from offramp.bundle import Bundle
    from offramp.runtimes._base import Runtime

__all__ = ["open_runtime"]


def open_runtime(bundle: Bundle, program: str | None = None, *, threads: int = 1) -> Runtime:
    """Load a program of a bundle.

    Args:
        bundle: An opened bundle.
        program: ``runtime/precision``; ``None`` as in ``Bundle.program``.
        threads: How many threads the kernels may use.

    Raises:
        BundleError: There is no such program.
        IntegrityError: Its file changed since the bundle was opened.
        ProgramError: The runtime refused it, it is not what the manifest says, or it is for a
            runtime that only the Kotlin or Swift SDK has.
    """
    entry = bundle.program(program)
    if entry.runtime != "litert":
        runnable = [known.name for known in bundle.manifest.programs if known.runtime == "litert"]
        raise ProgramError(
            f"{entry.name} runs in apps only; from Python choose a LiteRT program: "
            f"{', '.join(runnable) or 'this bundle has none'}"
        )
    (file,) = entry.files
    return LiteRTRuntime(bundle.read(file), entry.stages, threads=threads)
