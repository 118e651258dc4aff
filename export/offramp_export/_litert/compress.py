"""Smaller weights for a float LiteRT program, its edges left as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offramp.errors import ExportError
from offramp_export._quiet import quiet
from offramp_export._require import require

if TYPE_CHECKING:
    from typing import Literal

__all__ = ["compress_weights"]


def compress_weights(program: bytes, precision: Literal["float16", "dynamic_int8"]) -> bytes:
    """Store the weights of a float32 program in fewer bits.

    Args:
        program: A ``.tflite`` file in float32.
        precision: ``float16`` computes in float32 what it reads; ``dynamic_int8`` scales each
            activation to int8 when it is there, and computes with integers.

    Raises:
        ExportError: The quantiser refused.
    """
    package = require("ai_edge_quantizer")
    with quiet():
        quantizer = package.quantizer.Quantizer(bytearray(program))
        if precision == "float16":
            quantizer.update_quantization_recipe(
                regex=".*",
                operation_name=package.qtyping.TFLOperationName.ALL_SUPPORTED,
                op_config=_half(package.qtyping),
                algorithm_key=package.algorithm_manager.AlgorithmName.FLOAT_CASTING,
            )
        else:
            quantizer.load_quantization_recipe(package.recipe.dynamic_wi8_afp32())
        try:
            result = quantizer.quantize(enable_progress_bar=False, enable_progress_report=False)
        except Exception as error:
            raise ExportError(
                f"the quantiser refused the program: {error}; leave litert/{precision} out of the "
                "targets, or replace the operator it names"
            ) from error
    return bytes(result.quantized_model)


def _half(qtyping: Any) -> Any:
    return qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=16, dtype=qtyping.TensorDataType.FLOAT
        ),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
