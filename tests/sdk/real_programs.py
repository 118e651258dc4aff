"""Makes small real programs; run as a script, since the converters are loud and heavy.

A three-stage network whose second stage hands one carry on unchanged, as ``float32.tflite`` and
``int8.tflite``, with images and the logits that other engines give: torch for float32, and the
classic interpreter, fed through numpy, for int8. Or, when ``executorch`` is asked for, as
``float32.pte`` with its edges, images and the logits of torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE, CLASSES, CHANNELS, FEATURES = 12, 5, 8, 6


class Stage(nn.Module):
    """Channel-last maps at the edges, as exported programs have them."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place
        self.conv = nn.Conv2d(3 if place == 0 else CHANNELS, CHANNELS, 3, 2 if place == 0 else 1, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.features = nn.Linear(CHANNELS, FEATURES)
        self.exit = nn.Linear(CHANNELS + (FEATURES if place else 0), CLASSES)
        # Steep, so that images are told apart by far more than rounding.
        self.exit.weight.data *= 10

    def forward(self, image_or_map: Tensor, features: Tensor | None = None) -> tuple[Tensor, ...]:
        scaled = image_or_map / 64 - 2 if self.place == 0 else image_or_map
        maps = torch.relu(self.conv(scaled.permute(0, 3, 1, 2)))
        pooled = self.pool(maps).flatten(1)
        logits = self.exit(pooled if features is None else torch.cat([pooled, features], 1))
        if features is None:
            features = torch.relu(self.features(pooled))
        carry = (maps.permute(0, 2, 3, 1), features)
        return (logits, *carry) if self.place < 2 else (logits,)


def _network() -> tuple[list[Stage], NDArray[np.uint8]]:
    torch.manual_seed(5)
    stages = [Stage(place).eval() for place in range(3)]
    return stages, np.random.default_rng(5).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)


def make(folder: Path) -> None:
    import litert_torch

    stages, images = _network()
    logits, carries = _run_torch(stages, images)

    conversion: Any = litert_torch
    for place, stage in enumerate(stages):
        sample = tuple(torch.from_numpy(part) for part in carries[0][place])
        conversion = conversion.signature(f"stage_{place}", stage, sample)
    conversion.convert().export(str(folder / "float32.tflite"))

    float32 = (folder / "float32.tflite").read_bytes()
    (folder / "int8.tflite").write_bytes(_quantize(float32, carries))
    np.savez(
        folder / "answers.npz",
        images=images,
        float32=logits,
        int8=_run_interpreter(folder / "int8.tflite", images),
    )


def make_executorch(folder: Path) -> None:
    import msgspec

    from offramp.bundle import InputSpec
    from offramp_export.targets import Card, ExecuTorch

    stages, images = _network()
    carry = ((1, SIZE // 2, SIZE // 2, CHANNELS), (1, FEATURES))
    target = ExecuTorch()
    program = target.convert(stages, (((1, SIZE, SIZE, 3),), carry, carry), None)
    # As an export does: methods that return labels stand beside the stages.
    labels = tuple(map(str, range(CLASSES)))
    card = Card.make(labels, len(stages), "tests", "1", InputSpec(height=SIZE, width=SIZE))
    program = target.describe(program, card)
    (folder / "float32.pte").write_bytes(program.files["executorch/float32.pte"])
    (folder / "stages.json").write_bytes(msgspec.json.encode(program.stages))
    np.savez(folder / "answers.npz", images=images, logits=_run_torch(stages, images)[0])


def _run_torch(
    stages: list[Stage], images: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], list[list[tuple[NDArray[np.float32], ...]]]]:
    logits = np.empty((3, len(images), CLASSES), np.float32)
    carries: list[list[tuple[NDArray[np.float32], ...]]] = []
    with torch.no_grad():
        for number, image in enumerate(images):
            carry: tuple[Tensor, ...] = (torch.from_numpy(image[None].astype(np.float32)),)
            carries.append([])
            for place, stage in enumerate(stages):
                carries[-1].append(tuple(part.contiguous().numpy() for part in carry))
                answer, *rest = stage(*carry)
                logits[place, number] = answer[0].numpy()
                carry = tuple(rest)
    return logits, carries


def _quantize(float32: bytes, carries: list[list[tuple[NDArray[np.float32], ...]]]) -> bytes:
    from ai_edge_quantizer import quantizer, recipe

    work = quantizer.Quantizer(float32, recipe.static_wi8_ai8())
    samples = {
        f"stage_{place}": [
            {f"args_{number}": part for number, part in enumerate(parts[place])}
            for parts in carries
        ]
        for place in range(3)
    }
    ranges = work.calibrate(samples, num_threads=1)
    # The image keeps its 256 values, and each carry one scale on both sides of the cut.
    ranges["stage_0_args_0"] = {
        "min": np.zeros_like(ranges["stage_0_args_0"]["min"]),
        "max": np.full_like(ranges["stage_0_args_0"]["max"], 255),
    }
    for place in (1, 2):
        for number in (0, 1):
            name = f"stage_{place - 1}_output_{number + 1}_output"
            if name in ranges:
                ranges[f"stage_{place}_args_{number}"] = ranges[name]
    ranges["stage_2_args_1"] = ranges["stage_1_args_1"]
    return bytes(work.quantize(ranges, enable_progress_report=False).quantized_model)


def _run_interpreter(path: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
    runners = [interpreter.get_signature_runner(f"stage_{place}") for place in range(3)]
    logits = np.empty((3, len(images), CLASSES), np.float32)
    for number, image in enumerate(images):
        carry = {"args_0": (image[None].astype(np.int16) - 128).astype(np.int8)}
        for place, runner in enumerate(runners):
            outputs = runner(**carry)
            details = runner.get_output_details()["output_0"]["quantization_parameters"]
            scale, zero_point = details["scales"][0], details["zero_points"][0]
            logits[place, number] = (outputs["output_0"][0].astype(np.float32) - zero_point) * scale
            carry = {
                f"args_{part}": outputs[f"output_{part + 1}"] for part in range(len(outputs) - 1)
            }
    return logits


if __name__ == "__main__":
    (make_executorch if sys.argv[2:] == ["executorch"] else make)(Path(sys.argv[1]))
