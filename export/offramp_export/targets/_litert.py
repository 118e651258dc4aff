"""LiteRT: one ``.tflite`` file per precision, one signature per stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, final

import numpy as np
import torch

from offramp.errors import ExportError
from offramp_export._edges import channel_last, run_stages
from offramp_export._litert.channel_last import ChannelLast
from offramp_export._litert.compress import compress_weights
from offramp_export._litert.convert import Signature, convert_signatures
from offramp_export._litert.delegation import delegations
from offramp_export._litert.flatbuffer import mend, read_stages
from offramp_export._litert.footprint import read_footprint
from offramp_export._litert.metadata import describe_stages
from offramp_export._litert.preprocess import quantizable_preprocess
from offramp_export._litert.quantize import quantize_stages
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

_TOLERANCES = {
    "float32": 1e-4,
    "float16": 5e-3,
    "dynamic_int8": float("inf"),
    "int8": float("inf"),
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
            -128).
        delegated_share: Of the operators of each stage, what XNNPACK must take at least when LiteRT
            loads the program here; converting fails if it takes less.
    """

    precision: Literal["float32", "float16", "dynamic_int8", "int8"] = "float32"
    delegated_share: float = 0.0

    def __post_init__(self) -> None:
        if self.precision not in _TOLERANCES:
            raise ExportError(
                f"LiteRT has no precision {self.precision!r}; expected one of "
                f"{', '.join(map(repr, _TOLERANCES))}"
            )
        check_share(self.delegated_share)

    @property
    def runtime(self) -> Literal["litert"]:
        """``litert``."""
        return "litert"

    @property
    def tolerance(self) -> float:
        """1e-4 of the largest logit in float32, 5e-3 in float16; int8 is judged by its labels."""
        return _TOLERANCES[self.precision]

    def convert(
        self,
        stages: Sequence[nn.Module],
        carries: Sequence[Sequence[tuple[int, ...]]],
        calibration_images: NDArray[np.uint8] | None,
    ) -> ConvertedProgram:
        """Convert all stages into one file; see ``Target.convert``."""
        names = [f"stage_{index}" for index in range(len(stages))]
        if self.precision == "int8":
            chosen = choose_calibration_images("litert/int8", calibration_images)
            stages = [quantizable_preprocess(stages[0]), *stages[1:]]
        signatures = {}
        for index, (name, stage, shapes) in enumerate(zip(names, stages, carries, strict=True)):
            edges = [shape if index == 0 else channel_last(shape) for shape in shapes]
            signatures[name] = Signature(
                ChannelLast(stage, keep=[0] if index == 0 else []), tuple(edges)
            )
        program = mend(convert_signatures(signatures))
        exporter = {name: version(name) for name in ("litert-torch", "torch")}
        if self.precision == "int8":
            program = quantize_stages(program, _samples(names, stages, chosen))
        elif self.precision != "float32":
            program = compress_weights(program, self.precision)
        if self.precision != "float32":
            exporter["ai-edge-quantizer"] = version("ai-edge-quantizer")
        if self.delegated_share:
            for index, found in enumerate(delegations(program, names)):
                require_share("LiteRT", found, index, self.delegated_share)
        return ConvertedProgram(
            files={f"litert/{self.precision}.tflite": program},
            stages=read_stages(program, names),
            exporter=exporter,
        )

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
