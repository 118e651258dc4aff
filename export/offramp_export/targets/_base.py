"""The interface of a target: one runtime in one precision, or in one for each stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from offramp.bundle import Precision, ProgramStage
    from offramp_export.card import Card
    from offramp_export.footprint import StageDelegation, StageFootprint

__all__ = ["ConvertedProgram", "Target"]


@dataclass(frozen=True, slots=True)
class ConvertedProgram:
    """What a target made of the stages.

    Attributes:
        files: Path inside the bundle -> content.
        stages: The edges of each stage, as the program itself reports them.
        exporter: Versions of the packages that made it, and the options they were given.
        delegation: One entry per stage where the converter decides what runs where, as ExecuTorch
            does; empty where the runtime decides when it loads the program.
    """

    files: Mapping[str, bytes]
    stages: tuple[ProgramStage, ...]
    exporter: Mapping[str, str]
    delegation: tuple[StageDelegation, ...] = ()


class Target(ABC):
    """Converts stages to one kind of program and can run the result to prove it.

    Implementations are frozen dataclasses whose fields are exactly the legal options.
    """

    @property
    @abstractmethod
    def runtime(self) -> Literal["litert", "executorch", "coreml"]:
        """``litert``, ``executorch`` or ``coreml``."""

    @property
    @abstractmethod
    def precision(self) -> Precision | tuple[Precision, ...]:
        """How weights are kept and computed with, or how in each stage; see ``ProgramEntry``."""

    @property
    def name(self) -> str:
        """``runtime/precision``, as a bundle names the program: ``litert/float32,int8``."""
        precision = self.precision
        return f"{self.runtime}/{precision if isinstance(precision, str) else ','.join(precision)}"

    @property
    @abstractmethod
    def tolerance(self) -> float:
        """The largest logit difference from torch that is still agreement.

        A fraction of the largest absolute logit; ``inf`` where only label agreement is judged.
        """

    @abstractmethod
    def convert(
        self,
        stages: Sequence[nn.Module],
        carries: Sequence[Sequence[tuple[int, ...]]],
        calibration_images: NDArray[np.uint8] | None,
    ) -> ConvertedProgram:
        """Convert all stages into one program.

        Args:
            stages: In evaluation mode, float32, on the CPU.
            carries: Per stage, the torch shapes of its inputs, batch 1; ``carries[0]`` is the
                image, ``((1, height, width, 3),)``.
            calibration_images: ``(images, height, width, 3)`` uint8, for targets that quantise.

        Raises:
            ConversionError: The converter refused, with the stage and what to change.
            ExportError: Something else stands against it, such as too few images.
        """

    def for_stage(self, stage: int) -> Target:
        """The target that converts alone what belongs to one stage, as this one converts it.

        Args:
            stage: Which.
        """
        return self

    def plain(self) -> Target:
        """The target in float, to try an operator with: it takes no calibration images."""
        return self

    def describe(self, program: ConvertedProgram, card: Card) -> ConvertedProgram:
        """The program with labels and descriptions where its format has a place for them.

        Args:
            program: What ``convert`` returned.
            card: What to say.
        """
        return program

    @abstractmethod
    def run(self, program: ConvertedProgram, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the converted program, stage by stage, through its real runtime.

        Args:
            program: What ``convert`` returned.
            images: ``(images, height, width, 3)`` uint8.

        Returns:
            ``(exits, images, classes)`` float32 logits.
        """

    def footprint(self, program: ConvertedProgram) -> tuple[StageFootprint, ...]:
        """What each stage of the program takes, read from its files; empty if that is not known.

        Args:
            program: What ``convert`` returned.
        """
        return ()
