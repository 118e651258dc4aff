"""Weights of a Core ML model in fewer bits; it computes in float16 all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offramp_export._require import require

if TYPE_CHECKING:
    from offramp.bundle import Precision

__all__ = ["compress_weights"]

# A table of values and scales would take what fewer bits save in smaller tensors.
_FEWEST_WEIGHTS = 1024
_PALETTE_BITS = {"palette8": 8, "palette6": 6, "palette4": 4}


def compress_weights(model: Any, precision: Precision) -> Any:
    """The model with weights in the bits that the precision names; others are left alone."""
    if precision not in ("int8", "weight_int8", *_PALETTE_BITS):
        return model
    optimize = require("coremltools.optimize.coreml")
    if precision in ("int8", "weight_int8"):
        config = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", weight_threshold=_FEWEST_WEIGHTS
        )
        compress = optimize.linear_quantize_weights
    else:
        config = optimize.OpPalettizerConfig(
            mode="kmeans", nbits=_PALETTE_BITS[precision], weight_threshold=_FEWEST_WEIGHTS
        )
        compress = optimize.palettize_weights
    return compress(model, optimize.OptimizationConfig(global_config=config))
