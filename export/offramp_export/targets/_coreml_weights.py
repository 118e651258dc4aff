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
    """The model with weights in the bits that the precision names; others are left alone.

    Activations cannot be quantised here: coremltools measures their ranges by running the model,
    which takes macOS.
    """
    optimize = require("coremltools.optimize.coreml")
    if precision not in ("weight_int8", *_PALETTE_BITS):
        return model
    if precision == "weight_int8":
        config = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", weight_threshold=_FEWEST_WEIGHTS
        )
        compress = optimize.linear_quantize_weights
    else:
        config = optimize.OpPalettizerConfig(
            mode="kmeans", nbits=_PALETTE_BITS[precision], weight_threshold=_FEWEST_WEIGHTS
        )
        compress = optimize.palettize_weights
    return _separate_outputs(compress(model, optimize.OptimizationConfig(global_config=config)))


def _separate_outputs(model: Any) -> Any:
    """Give each output a name of its own.

    Compressing takes out the copy that a tensor returned twice was given, and leaves two outputs of
    one name, which no device could tell apart.
    """
    spec = model.get_spec()
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    types = {output.name: output.type for made in block.operations for output in made.outputs}
    types |= {entry.name: entry.type for entry in spec.mlProgram.functions["main"].inputs}
    seen: set[str] = set()
    for place, feature in enumerate(spec.description.output):
        name = feature.name
        if name in seen:
            feature.name = f"{name}_again_{place}"
            copied = block.operations.add()
            copied.type = "identity"
            copied.inputs["x"].arguments.add().name = name
            made = copied.outputs.add()
            made.name = feature.name
            made.type.CopyFrom(types[name])
            block.outputs[place] = feature.name
        seen.add(name)
    models = require("coremltools").models
    return models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)
