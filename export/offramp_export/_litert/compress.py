"""Smaller weights for a float LiteRT program, its edges left as they are."""

from __future__ import annotations

from typing import Any

from offramp.errors import ConversionError
from offramp_export._first_line import first_line
from offramp_export._quiet import quiet
from offramp_export._require import require

__all__ = ["compress_weights"]


def compress_weights(program: bytes, recipe: Any) -> bytes:
    """Store the weights of a float32 program in fewer bits.

    Args:
        program: A ``.tflite`` file in float32.
        recipe: Of ``make_recipe``, with no static precision in it: nothing is to be calibrated.

    Raises:
        ConversionError: The quantiser refused.
    """
    package = require("ai_edge_quantizer")
    with quiet():
        quantizer = package.quantizer.Quantizer(bytearray(program), recipe)
        try:
            result = quantizer.quantize(enable_progress_bar=False, enable_progress_report=False)
        except Exception as error:
            raise ConversionError(
                f"LiteRT's quantiser refused the program: {first_line(error)}; leave this "
                "precision out of the targets, or replace the operator it names"
            ) from error
    return bytes(result.quantized_model)
