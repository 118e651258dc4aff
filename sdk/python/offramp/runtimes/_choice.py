"""Which of the runtimes that are installed opens a program."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, final

from offramp.errors import MissingExtraError, ProgramError
from offramp.runtimes._shim import executorch_version, find_shim

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp.bundle import ProgramEntry, ProgramStage
    from offramp.runtimes._base import Runtime

__all__ = ["Choice", "choose_runtime", "describe_runtime", "installed_runtimes"]


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """One way to run programs of one kind.

    Attributes:
        name: How users ask for it.
        programs: The runtime of the manifest whose programs it opens.
        find: What it is here, with its version; ``None`` where it is not installed.
        open: Opens a program: content, stages, threads.
        install: What brings it.
    """

    name: str
    programs: str
    find: Callable[[], str | None]
    open: Callable[[bytes, tuple[ProgramStage, ...], int], Runtime]
    install: str


def _package(name: str) -> str | None:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None


def _shim() -> str | None:
    return f"executorch {executorch_version()} (shim)" if find_shim() else None


def _torch() -> str | None:
    found = executorch_version()
    try:
        # Looking for torch does not import it.
        torch = importlib.util.find_spec("torch")
    except ModuleNotFoundError:
        torch = None
    return None if found is None or torch is None else f"executorch {found} (torch)"


def _open_litert(program: bytes, stages: tuple[ProgramStage, ...], threads: int) -> Runtime:
    from offramp.runtimes._litert import LiteRTRuntime

    return LiteRTRuntime(program, stages, threads=threads)


def _open_tflite(program: bytes, stages: tuple[ProgramStage, ...], threads: int) -> Runtime:
    from offramp.runtimes._staged import StagedRuntime
    from offramp.runtimes._tflite import TFLiteEngine

    return StagedRuntime(TFLiteEngine(program, threads=threads), stages)


def _open_shim(program: bytes, stages: tuple[ProgramStage, ...], threads: int) -> Runtime:
    from offramp.runtimes._executorch_shim import ShimEngine
    from offramp.runtimes._staged import StagedRuntime

    library = find_shim()
    if library is None:
        raise ProgramError("the ExecuTorch shim is not built; run `offramp build-shim`")
    return StagedRuntime(ShimEngine(program, library, threads=threads), stages)


def _open_torch(program: bytes, stages: tuple[ProgramStage, ...], threads: int) -> Runtime:
    from offramp.runtimes._executorch_torch import TorchEngine
    from offramp.runtimes._staged import StagedRuntime

    return StagedRuntime(TorchEngine(program, threads=threads), stages)


# In the order in which they are preferred.
_CHOICES = (
    Choice(
        "litert",
        "litert",
        lambda: _package("ai-edge-litert"),
        _open_litert,
        "`pip install ai-edge-litert`",
    ),
    Choice(
        "tflite-runtime",
        "litert",
        lambda: _package("tflite-runtime"),
        _open_tflite,
        '`pip install "offramp[tflite]"` (Python 3.11)',
    ),
    Choice(
        "executorch-shim",
        "executorch",
        _shim,
        _open_shim,
        '`pip install "offramp[executorch]"` and `offramp build-shim`',
    ),
    Choice(
        "executorch-torch",
        "executorch",
        _torch,
        _open_torch,
        '`pip install "offramp[executorch]" torch`',
    ),
)


def installed_runtimes() -> dict[str, str]:
    """What is installed here: name -> package and version, in the order of preference.

    Nothing is imported to find out.
    """
    found = {choice.name: choice.find() for choice in _CHOICES}
    return {name: engine for name, engine in found.items() if engine is not None}


def choose_runtime(entry: ProgramEntry, runtime: str | None = None) -> Choice:
    """The runtime that opens a program: the one named, or the first that is installed.

    Args:
        entry: The program.
        runtime: A name of ``installed_runtimes``; ``None`` takes the first that fits.

    Raises:
        ProgramError: No Python runtime opens such programs, or the one named does not.
        MissingExtraError: It is not installed; the message says what to run.
    """
    fitting = [choice for choice in _CHOICES if choice.programs == entry.runtime]
    if not fitting:
        raise ProgramError(
            f"{entry.name} runs in apps only; from Python choose a LiteRT or ExecuTorch program"
        )
    if runtime is not None:
        fitting = [choice for choice in fitting if choice.name == runtime]
        if not fitting:
            names = [choice.name for choice in _CHOICES if choice.programs == entry.runtime]
            raise ProgramError(
                f"the runtime {runtime!r} does not open {entry.name}; choose {' or '.join(names)}"
            )
    for choice in fitting:
        if choice.find() is not None:
            return choice
    raise MissingExtraError(
        f"{entry.name} needs {'a runtime that is' if runtime is None else runtime + ', which is'} "
        f"not installed here; run {', or '.join(choice.install for choice in fitting)}"
    )


def describe_runtime(entry: ProgramEntry) -> str | None:
    """What would run a program here, with its version; ``None`` where nothing does."""
    try:
        return choose_runtime(entry).find()
    except (MissingExtraError, ProgramError):
        return None
