"""From a bundle to a loaded program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.runtimes._choice import choose_runtime
from offramp.runtimes._first_load import FirstLoad, SelfTest

if TYPE_CHECKING:
    from offramp.bundle import Bundle
    from offramp.runtimes._base import Runtime

__all__ = ["open_runtime"]


def open_runtime(
    bundle: Bundle,
    program: str | None = None,
    *,
    threads: int = 1,
    runtime: str | None = None,
    self_test: SelfTest = "first",
) -> Runtime:
    """Load a program of a bundle.

    Args:
        bundle: An opened bundle.
        program: ``runtime/precision``; ``None`` as in ``Bundle.program``.
        threads: How many threads the kernels may use.
        runtime: What is to run it: ``litert`` or ``tflite-runtime`` for LiteRT programs,
            ``executorch-shim`` or ``executorch-torch`` for ExecuTorch programs; ``None`` takes the
            first of these that is installed. ``Runtime.engine`` says which it is.
        self_test: When to run the bundle's test images and compare with what was recorded:
            ``first`` the first time that this program is opened by this runtime on this
            processor, ``always``, or ``never``. A program that is new here runs them in a process
            of its own, so that a bad one ends that process and not this one; ``in_process`` is
            ``first`` without it, where none can be started.

    Raises:
        BundleError: There is no such program.
        IntegrityError: Its file changed since the bundle was opened.
        ProgramError: The runtime refused it, it is not what the manifest says, it died or hung in
            its process or that process could not be started, or it is for a runtime that only the
            Kotlin or Swift SDK has.
        SelfTestError: It does not answer here as it did where the bundle was made.
        MissingExtraError: No runtime for it is installed.
    """
    entry = bundle.program(program)
    choice = choose_runtime(entry, runtime)
    load = FirstLoad(bundle, entry, choice, when=self_test)
    (file,) = entry.files
    data = bundle.read(file)
    load.before(data, threads)
    opened = choice.open(data, entry.stages, threads)
    try:
        load.after(opened)
    except BaseException:
        opened.close()
        raise
    return opened
