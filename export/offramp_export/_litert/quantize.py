"""Static ranges for a LiteRT program whose stages hand tensors to one another.

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

from offramp.errors import ConversionError, ExportError
from offramp_export._first_line import first_line
from offramp_export._litert.flatbuffer import (
    edge_names,
    join_carries,
    keep_outputs,
    read_stages,
    tensor_positions,
)
from offramp_export._litert.joining import share_joined_ranges
from offramp_export._litert.precision import STATIC, edge_dtype
from offramp_export._litert.recipe import make_recipe, scopes
from offramp_export._quiet import quiet
from offramp_export._require import require
from offramp_export._usual_bounds import usual_bounds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from offramp.bundle import ProgramStage, Quantization, TensorEntry
    from offramp_export._litert.precision import Activations, StagePrecision

__all__ = ["quantize_signatures", "quantize_stages"]


def quantize_stages(
    program: bytes,
    samples: Mapping[str, Sequence[tuple[NDArray[np.float32], ...]]],
    precisions: Sequence[StagePrecision],
    known: Mapping[str, tuple[float, float]],
) -> bytes:
    """Quantise a program of stages: stage 0 reads pixels, each other one the carry before it.

    Args:
        program: A float32 program whose signatures are the stages, in order; with tensors that
            ``name_by_stage`` named, where the precisions differ.
        samples: Per signature, in order, what it is called with: one tuple of its inputs per
            calibration image, channel-last.
        precisions: One per signature.
        known: The ranges of tensors, by name, that no image needs to show.

    Raises:
        ConversionError: The quantiser refused, or left an edge float.
        ExportError: It cannot make the two sides of a carry agree.
    """
    names = list(samples)
    tensors = edge_names(program, names)
    recipe = make_recipe(names, precisions)
    ranges = _calibrate(program, samples, recipe)
    for scope, precision in scopes(names, precisions).items():
        if precision in STATIC:
            _widen(ranges, scope, STATIC[precision].headroom)
    if precisions[0] in STATIC:
        _set_range(ranges, tensors[0].inputs[0], STATIC[precisions[0]].image_range)
    for name, bounds in known.items():
        _set_range(ranges, name, bounds)
    static = [name for name, each in zip(names, precisions, strict=True) if each in STATIC]
    share_joined_ranges(program, static, ranges)
    for index, (before, after) in enumerate(pairwise(tensors)):
        if precisions[index] in STATIC:
            for produced, consumed in zip(before.outputs[1:], after.inputs, strict=True):
                ranges[consumed] = dict(ranges[produced])

    for _ in range(len(names) + 1):
        quantized = join_carries(_quantize(program, ranges, recipe), names)
        stages = read_stages(quantized, names)
        _require_dtypes(stages, precisions)
        settled = True
        for index, (stage, following) in enumerate(pairwise(stages)):
            for position, tensor in enumerate(following.inputs):
                made = stage.outputs[1 + position].quantization
                if made is not None and made != tensor.quantization:
                    settled = False
                    bounds = _range_of(made, STATIC[precisions[index]])
                    _set_range(ranges, tensors[index + 1].inputs[position], bounds)
        if settled:
            if precisions[0] in STATIC:
                _require_pixels(stages[0], STATIC[precisions[0]])
            return quantized
    raise ExportError(
        f"static {_listed(precisions)}: a carry keeps one scale where it is made and another where "
        "it is read; let the stage before it end in a convolution or a ReLU"
    )


def quantize_signatures(
    program: bytes, samples: Mapping[str, Sequence[tuple[NDArray[np.float32], ...]]]
) -> bytes:
    """Quantise a program to int8 whose signatures have nothing to do with one another."""
    names = list(samples)
    recipe = make_recipe(names, ["int8"] * len(names))
    return _quantize(program, _calibrate(program, samples, recipe), recipe)


def _calibrate(
    program: bytes,
    samples: Mapping[str, Sequence[tuple[NDArray[np.float32], ...]]],
    recipe: Any,
) -> dict[str, dict[str, Any]]:
    """Range of every tensor: its usual bounds over the samples."""
    require("ai_edge_quantizer")
    with quiet():
        from ai_edge_quantizer import calibrator
        from ai_edge_quantizer.recipe_manager import RecipeManager

        manager = RecipeManager()
        manager.load_quantization_recipe(recipe)
        positions = tensor_positions(program)
        run = calibrator.Calibrator(program, num_threads=1, qsv_update_func=_append)
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
        seen: dict[str, dict[str, Any]] = run.get_model_qsvs()
    return {tensor: _bounds(found, positions[tensor]) for tensor, found in seen.items()}


def _append(known: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Keep the bounds of every sample, one behind the other."""
    return {key: np.append(known[key], found[key]) for key in ("min", "max")}


def _bounds(found: dict[str, Any], positions: int) -> dict[str, Any]:
    bounds = usual_bounds(found["min"].reshape(-1), found["max"].reshape(-1), positions=positions)
    return {
        key: np.full((1, 1, 1, 1), bound) for key, bound in zip(("min", "max"), bounds, strict=True)
    }


def _quantize(program: bytes, ranges: Mapping[str, Any], recipe: Any) -> bytes:
    quantizer_package = require("ai_edge_quantizer")
    with quiet():
        quantizer = quantizer_package.quantizer.Quantizer(bytearray(program), recipe)
        try:
            result = quantizer.quantize(
                ranges, enable_progress_bar=False, enable_progress_report=False
            )
        except Exception as error:
            raise ConversionError(
                f"LiteRT's quantiser refused the program: {first_line(error)}; leave this "
                "precision out of the targets, or replace the operator it names"
            ) from error
    return keep_outputs(program, bytes(result.quantized_model))


def _set_range(ranges: dict[str, dict[str, Any]], tensor: str, bounds: tuple[float, float]) -> None:
    known = ranges[tensor]
    ranges[tensor] = {
        key: np.full_like(known[key], bound)
        for key, bound in zip(("min", "max"), bounds, strict=True)
    }


def _widen(ranges: dict[str, dict[str, Any]], scope: str, factor: float) -> None:
    for tensor, known in ranges.items():
        if tensor.startswith(scope):
            known.update({key: known[key] * factor for key in ("min", "max")})


def _range_of(quantization: Quantization, activations: Activations) -> tuple[float, float]:
    return (
        quantization.scale * (activations.smallest - quantization.zero_point),
        quantization.scale * (activations.largest - quantization.zero_point),
    )


def _require_dtypes(stages: Sequence[ProgramStage], precisions: Sequence[StagePrecision]) -> None:
    """Every edge is as the stage that makes it computes."""
    read = [precisions[0], *precisions]
    for index, (stage, precision) in enumerate(zip(stages, precisions, strict=True)):
        for side, tensors, expected in (
            ("input", stage.inputs, edge_dtype(read[index])),
            ("output", stage.outputs, edge_dtype(precision)),
        ):
            for position, tensor in enumerate(tensors):
                if not _has(tensor, expected):
                    raise ConversionError(
                        f"static {precision}: {side} {position} of stage {index} is "
                        f"{tensor.dtype}, expected {expected}; an operator next to it has no form "
                        "in this precision, so replace it or leave the precision out of the "
                        "targets",
                        stage=index,
                    )


def _has(tensor: TensorEntry, dtype: str) -> bool:
    return tensor.dtype == dtype and (tensor.quantization is None) == (dtype == "float32")


def _require_pixels(stage: ProgramStage, activations: Activations) -> None:
    found, expected = stage.inputs[0].quantization, activations.image
    if found != expected:
        raise ExportError(
            f"static {activations.dtype}: the image has {found}, expected {expected}; report this "
            "with the network"
        )


def _listed(precisions: Sequence[StagePrecision]) -> str:
    return ", ".join(dict.fromkeys(precisions))
