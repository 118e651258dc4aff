"""Static int8 for a LiteRT program whose stages hand tensors to one another.

The runtime passes a carry on as bytes and never compares scales, so the tensor must have one scale
and one zero point wherever it appears: as an output, as the next stage's input, and again wherever
it is handed on unchanged. Some operators dictate their output's scale (sigmoid, softmax, tanh, the
poolings), so the scales are not chosen here but read off the producer, given to the consumer, and
the program is quantised again until both sides agree.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.errors import ExportError
from offramp_export._litert.flatbuffer import (
    edge_names,
    join_carries,
    read_stages,
)
from offramp_export._quiet import quiet
from offramp_export._require import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from offramp.bundle import ProgramStage, Quantization

__all__ = ["quantize_signatures", "quantize_stages"]


# What a pixel is: real = 1 * (stored + 128).
_IMAGE_RANGE = (0.0, 255.0)
_INT8_MIN, _INT8_MAX = -128, 127


def quantize_stages(
    program: bytes, samples: Mapping[str, Sequence[tuple[NDArray[np.float32], ...]]]
) -> bytes:
    """Quantise a program of stages: stage 0 reads pixels, each other one the carry before it.

    Args:
        program: A float32 program whose signatures are the stages, in order.
        samples: Per signature, in order, what it is called with: one tuple of its inputs per
            calibration image, channel-last.

    Raises:
        ExportError: The quantiser refused, left an edge float, or cannot make the two sides of a
            carry agree.
    """
    names = list(samples)
    tensors = edge_names(program, names)
    ranges = _calibrate(program, samples)
    _set_range(ranges, tensors[0].inputs[0], _IMAGE_RANGE)
    for before, after in pairwise(tensors):
        for produced, consumed in zip(before.outputs[1:], after.inputs, strict=True):
            ranges[consumed] = dict(ranges[produced])

    for _ in range(len(names) + 1):
        quantized = join_carries(_quantize(program, ranges), names)
        stages = read_stages(quantized, names)
        _require_int8(stages)
        settled = True
        for index, (stage, following) in enumerate(pairwise(stages)):
            for position, tensor in enumerate(following.inputs):
                made = stage.outputs[1 + position].quantization
                assert made is not None
                if made != tensor.quantization:
                    settled = False
                    _set_range(ranges, tensors[index + 1].inputs[position], _range_of(made))
        if settled:
            _require_pixels(stages[0])
            return quantized
    raise ExportError(
        "static int8: a carry keeps one scale where it is made and another where it is read; "
        "let the stage before it end in a convolution or a ReLU"
    )


def quantize_signatures(
    program: bytes, samples: Mapping[str, Sequence[tuple[NDArray[np.float32], ...]]]
) -> bytes:
    """Quantise a program whose signatures have nothing to do with one another."""
    return _quantize(program, _calibrate(program, samples))


def _calibrate(
    program: bytes, samples: Mapping[str, Sequence[tuple[NDArray[np.float32], ...]]]
) -> dict[str, dict[str, Any]]:
    """Range of every tensor: its smallest and largest value over all samples."""
    quantizer_package = require("ai_edge_quantizer")
    with quiet():
        from ai_edge_quantizer import calibrator
        from ai_edge_quantizer.recipe_manager import RecipeManager
        from ai_edge_quantizer.utils import qsv_utils

        manager = RecipeManager()
        manager.load_quantization_recipe(quantizer_package.recipe.static_wi8_ai8())
        run = calibrator.Calibrator(
            program, num_threads=1, qsv_update_func=qsv_utils.min_max_update
        )
        run.calibrate(
            {
                name: [
                    {f"args_{index}": value for index, value in enumerate(sample)}
                    for sample in signature_samples
                ]
                for name, signature_samples in samples.items()
            },
            manager,
        )
        ranges: dict[str, dict[str, Any]] = run.get_model_qsvs()
    return ranges


def _quantize(program: bytes, ranges: Mapping[str, Any]) -> bytes:
    quantizer_package = require("ai_edge_quantizer")
    with quiet():
        quantizer = quantizer_package.quantizer.Quantizer(
            bytearray(program), quantizer_package.recipe.static_wi8_ai8()
        )
        try:
            result = quantizer.quantize(
                ranges, enable_progress_bar=False, enable_progress_report=False
            )
        except Exception as error:
            raise ExportError(
                f"the int8 quantiser refused the program: {error}; leave litert/int8 out of the "
                "targets, or replace the operator it names"
            ) from error
    return bytes(result.quantized_model)


def _set_range(ranges: dict[str, dict[str, Any]], tensor: str, bounds: tuple[float, float]) -> None:
    known = ranges[tensor]
    ranges[tensor] = {
        key: np.full_like(known[key], bound)
        for key, bound in zip(("min", "max"), bounds, strict=True)
    }


def _range_of(quantization: Quantization) -> tuple[float, float]:
    return (
        quantization.scale * (_INT8_MIN - quantization.zero_point),
        quantization.scale * (_INT8_MAX - quantization.zero_point),
    )


def _require_int8(stages: Sequence[ProgramStage]) -> None:
    for index, stage in enumerate(stages):
        for side, tensors in (("input", stage.inputs), ("output", stage.outputs)):
            for position, tensor in enumerate(tensors):
                if tensor.dtype != "int8" or tensor.quantization is None:
                    raise ExportError(
                        f"static int8: {side} {position} of stage {index} stayed {tensor.dtype}; "
                        "an operator next to it has no int8 form, so replace it or leave "
                        "litert/int8 out of the targets"
                    )


def _require_pixels(stage: ProgramStage) -> None:
    quantization = stage.inputs[0].quantization
    assert quantization is not None
    if (quantization.scale, quantization.zero_point) != (1.0, _INT8_MIN):
        raise ExportError(
            f"static int8: the image has scale {quantization.scale} and zero point "
            f"{quantization.zero_point}, expected 1 and -128; report this with the network"
        )
