"""LiteRT: one ``.tflite`` file per program, one signature per stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, final

import numpy as np
import torch

from offramp.errors import ExportError
from offramp_export._edges import channel_last, run_stages
from offramp_export._equalization import equalize
from offramp_export._litert.affine import normalize_by_convolution
from offramp_export._litert.channel_last import ChannelLast
from offramp_export._litert.compress import compress_weights
from offramp_export._litert.convert import Signature, convert_signatures
from offramp_export._litert.delegation import delegations
from offramp_export._litert.flatbuffer import mend, read_stages
from offramp_export._litert.footprint import read_footprint
from offramp_export._litert.image import keep_image_exact
from offramp_export._litert.metadata import describe_stages
from offramp_export._litert.pooling import average_by_convolution
from offramp_export._litert.precision import STATIC, StagePrecision
from offramp_export._litert.quantize import quantize_stages
from offramp_export._litert.recipe import make_recipe, name_by_stage
from offramp_export._preprocess import quantizable_preprocess
from offramp_export._quiet import quiet
from offramp_export.targets._base import ConvertedProgram, Target
from offramp_export.targets._calibration import choose_calibration_images
from offramp_export.targets._delegation import check_share, require_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from offramp_export.card import Card
    from offramp_export.footprint import StageFootprint

__all__ = ["LiteRT"]

_FEWEST_PRECISIONS = 2  # of a program whose stages differ

_TOLERANCES: dict[StagePrecision, float] = {
    "float32": 1e-4,
    "float16": 5e-3,
    "dynamic_int8": float("inf"),
    "int8": float("inf"),
    "int16x8": float("inf"),
}


@final
@dataclass(frozen=True, slots=True)
class LiteRT(Target):
    """LiteRT on the CPU (XNNPACK), carries channel-last.

    Attributes:
        precision: ``float32``. ``float16``: weights of half the size, computed in float32.
            ``dynamic_int8``: weights a quarter of the size, computed with activations that are
            scaled at each run; no calibration images. ``int8``, static: weights and activations,
            ranges measured on calibration images, the image read as it is (scale 1, zero point
            -128). ``int16x8``, static too: activations of 16 bits, weights of 8, the image as it
            is (scale 1, zero point 0). On a processor its kernels are plain loops, slower than
            float32; it is for accelerators that compute in 16 bits. A tuple gives each stage its
            own, first to last, such as ``("float32", "int8", "int8")``; the stage that reads a
            carry converts it.
        delegated_share: Of the operators of each stage, what XNNPACK must take at least when LiteRT
            loads the program here; converting fails if it takes less.
    """

    precision: StagePrecision | tuple[StagePrecision, ...] = "float32"
    delegated_share: float = 0.0

    def __post_init__(self) -> None:
        for precision in self._precisions:
            if not isinstance(precision, str) or precision not in _TOLERANCES:
                raise ExportError(
                    f"LiteRT has no precision {precision!r}; expected one of "
                    f"{', '.join(map(repr, _TOLERANCES))}, or a tuple with one for each stage"
                )
        if (
            self._precisions != (self.precision,)
            and len(set(self._precisions)) < _FEWEST_PRECISIONS
        ):
            raise ExportError(
                f"LiteRT was given the precisions {self.precision!r}, which are all alike; pass "
                f"{self._precisions[0]!r} alone"
            )
        check_share(self.delegated_share)

    @property
    def _precisions(self) -> tuple[StagePrecision, ...]:
        """One for all stages, or one for each."""
        return self.precision if isinstance(self.precision, tuple) else (self.precision,)

    @property
    def runtime(self) -> Literal["litert"]:
        """``litert``."""
        return "litert"

    @property
    def tolerance(self) -> float:
        """1e-4 of the largest logit in float32, 5e-3 in float16; of stages that differ, the larger.

        The others are judged by their labels.
        """
        return max(map(_TOLERANCES.__getitem__, self._precisions))

    def convert(
        self,
        stages: Sequence[nn.Module],
        carries: Sequence[Sequence[tuple[int, ...]]],
        calibration_images: NDArray[np.uint8] | None,
    ) -> ConvertedProgram:
        """Convert all stages into one file; see ``Target.convert``."""
        names = [f"stage_{index}" for index in range(len(stages))]
        mixed = isinstance(self.precision, tuple)
        precisions = self._precisions if mixed else self._precisions * len(stages)
        if len(precisions) != len(stages):
            raise ExportError(
                f"{self.name} has {len(precisions)} precisions and the network {len(stages)} "
                "stages; give one precision per stage, or one for all"
            )
        static = not STATIC.keys().isdisjoint(precisions)
        if static:
            chosen = choose_calibration_images(self.name, calibration_images)
        if "int8" in precisions:
            stages = equalize(stages, chosen)
        if precisions[0] in STATIC:
            stages = [quantizable_preprocess(stages[0]), *stages[1:]]
        signatures = {}
        for index, (name, stage, shapes) in enumerate(zip(names, stages, carries, strict=True)):
            edges = [shape if index == 0 else channel_last(shape) for shape in shapes]
            signatures[name] = Signature(
                ChannelLast(stage, keep=[0] if index == 0 else []), tuple(edges)
            )
        program = mend(convert_signatures(signatures))
        in_int8 = [name for name, each in zip(names, precisions, strict=True) if each == "int8"]
        program = average_by_convolution(program, in_int8)
        program = normalize_by_convolution(program, in_int8)
        if mixed:
            program = name_by_stage(program)
        exporter = {name: version(name) for name in ("litert-torch", "torch")}
        if static:
            known: dict[str, tuple[float, float]] = {}
            if precisions[0] == "int8":
                program, known = keep_image_exact(program, names[0])
            samples = _samples(names, stages, chosen)
            program = quantize_stages(program, samples, precisions, known)
        elif self.precision != "float32":
            program = compress_weights(program, make_recipe(names, precisions))
        if self.precision != "float32":
            exporter["ai-edge-quantizer"] = version("ai-edge-quantizer")
        if self.delegated_share:
            for index, found in enumerate(delegations(program, names)):
                require_share("LiteRT", found, index, self.delegated_share)
        return ConvertedProgram(
            files={f"{self.name.replace(',', '-')}.tflite": program},
            stages=read_stages(program, names),
            exporter=exporter,
        )

    def for_stage(self, stage: int) -> LiteRT:
        """In that stage's precision; see ``Target.for_stage``."""
        return LiteRT(self.precision[stage]) if isinstance(self.precision, tuple) else self

    def plain(self) -> LiteRT:
        """In float32; see ``Target.plain``."""
        return LiteRT()

    def describe(self, program: ConvertedProgram, card: Card) -> ConvertedProgram:
        """Add TensorFlow Lite's metadata; see ``Target.describe``."""
        names = [f"stage_{index}" for index in range(len(program.stages))]
        files = {
            path: describe_stages(content, names, card) for path, content in program.files.items()
        }
        return replace(program, files=files)

    def run(self, program: ConvertedProgram, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the file in LiteRT, as the SDK does; see ``Target.run``."""
        from offramp.runtimes import LiteRTRuntime

        (content,) = program.files.values()
        with quiet(), LiteRTRuntime(content, program.stages, threads=1) as runtime:
            logits = []
            for image in images:
                runtime.start(image)
                logits.append([runtime.run(stage) for stage in range(len(program.stages))])
        return np.array(logits, np.float32).transpose(1, 0, 2)

    def footprint(self, program: ConvertedProgram) -> tuple[StageFootprint, ...]:
        """Read the file's graphs, and load each in LiteRT; see ``Target.footprint``."""
        (content,) = program.files.values()
        names = [f"stage_{index}" for index in range(len(program.stages))]
        return read_footprint(content, names)


def _samples(
    names: Sequence[str], stages: Sequence[nn.Module], images: NDArray[np.uint8]
) -> dict[str, list[tuple[NDArray[np.float32], ...]]]:
    """What each stage is called with, per image, channel-last."""
    samples: dict[str, list[tuple[NDArray[np.float32], ...]]] = {name: [] for name in names}
    for image in images:
        batch = image[None].astype(np.float32)
        outputs = run_stages(stages, torch.from_numpy(batch))
        samples[names[0]].append((batch,))
        for name, output in zip(names[1:], outputs, strict=False):
            samples[name].append(tuple(_to_channel_last(value) for value in output[1:]))
    return samples


def _to_channel_last(value: torch.Tensor) -> NDArray[np.float32]:
    array = value.numpy()
    if array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(array, np.float32)
