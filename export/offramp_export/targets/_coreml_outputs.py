"""Outputs of a Core ML model, each with a tensor and a name of its own.

The converter gives an output the name of its tensor. A carry handed on unchanged is then called as
the input it came from, and one handed on twice has one name for two outputs; no device could tell
them apart (https://github.com/apple/coremltools/issues/1887). Naming the outputs for the converter
does not help: it renames the tensor, and refuses a float32 stage whose input so loses its name. So
names are given here, in the finished model.
"""

from __future__ import annotations

from typing import Any

from offramp_export._require import require

__all__ = ["separate_outputs"]


def separate_outputs(model: Any, *, always: bool = False) -> Any:
    """The model with outputs ``output_0``, ``output_1`` and so on, each computed by an operator.

    Args:
        model: With one function; left alone.
        always: Let every output be a copy, so that a graph pass may replace what made it.
    """
    coremltools = require("coremltools")
    spec = model.get_spec()
    function = spec.mlProgram.functions["main"]
    (block,) = function.block_specializations.values()
    types = {output.name: output.type for made in block.operations for output in made.outputs}
    types |= {entry.name: entry.type for entry in function.inputs}
    taken = {entry.name for entry in function.inputs}
    for place, feature in enumerate(spec.description.output):
        name = feature.name
        if always or name in taken:
            copied = block.operations.add()
            copied.type = "identity"
            copied.inputs["x"].arguments.add().name = name
            made = copied.outputs.add()
            made.name = feature.name = block.outputs[place] = f"{name}_again_{place}"
            made.type.CopyFrom(types[name])
        taken.add(name)
    # In two steps, since a tensor may have the name that another one is to get.
    for prefix in ("renamed_output", "output"):
        for place, name in enumerate([output.name for output in spec.description.output]):
            coremltools.utils.rename_feature(
                spec, name, f"{prefix}_{place}", rename_inputs=False, rename_outputs=True
            )
    return coremltools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)
