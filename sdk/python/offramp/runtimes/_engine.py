"""The interface of an engine that a ``StagedRuntime`` drives."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from offramp.errors import ProgramError
from offramp.runtimes._quiet import Said, capture_stderr

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from offramp.bundle import ProgramStage
    from offramp.runtimes._edges import Edge

__all__ = ["Buffers", "Engine", "StageEdges", "check_threads", "refusals"]


@final
@dataclass(frozen=True, slots=True)
class StageEdges:
    """What a stage takes and gives, as the program itself tells it."""

    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Buffers:
    """The memory that an engine reads images from and leaves logits in.

    Attributes:
        image: ``(height, width, 3)``, of the dtype of stage 0's input.
        logits: Per stage, ``(classes,)``, of the dtype of its first output.
    """

    image: NDArray[Any]
    logits: tuple[NDArray[Any], ...]


class Engine(ABC):
    """One loaded program, whose stages are called in order by somebody who keeps count.

    Carries stay inside: stage ``s`` reads what stage ``s - 1`` has computed last.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The package and its version, such as ``tflite-runtime 2.14.0``."""

    @abstractmethod
    def edges(self) -> Mapping[str, StageEdges]:
        """The edges of every signature, or method that is a stage, by its name.

        Raises:
            ProgramError: The program cannot be read.
        """

    @abstractmethod
    def bind(self, stages: tuple[ProgramStage, ...]) -> Buffers:
        """Make ready to run.

        Args:
            stages: What the manifest says, which ``edges`` has been compared with.

        Raises:
            ProgramError: The engine refused.
        """

    @abstractmethod
    def run(self, stage: int) -> None:
        """Run one stage.

        Raises:
            ProgramError: The engine failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the program; called once, after the buffers were dropped."""


def check_threads(threads: int) -> None:
    """Refuse what no engine takes.

    Raises:
        ValueError: ``threads`` is below 1.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}, expected at least 1")


@contextlib.contextmanager
def refusals(engine: str, doing: str) -> Iterator[None]:
    """Quiet while an engine works; its refusal becomes one of our errors.

    Args:
        engine: Who it is.
        doing: What, as in "could not load the program".

    Raises:
        ProgramError: The engine raised ``RuntimeError`` or ``ValueError``; what it wrote to the
            terminal is in the message.
    """
    said = Said()
    try:
        with capture_stderr() as said:
            yield
    except ProgramError:
        raise
    except (RuntimeError, ValueError) as error:
        detail = "; ".join(line for line in (*str(error).splitlines(), *said.complaints()) if line)
        raise ProgramError(f"{engine} could not {doing}: {detail}") from error
