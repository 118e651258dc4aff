"""What the quantiser is told to do: one precision for a program, or one for each of its stages.

The quantiser goes by names: a rule holds for the operators whose results are called as it says, and
the last one that fits counts. The inputs and the outputs of a signature are two operators more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offramp_export._litert.flatbuffer import read_model, write_model
from offramp_export._litert.precision import STATIC, edge_dtype
from offramp_export._quiet import quiet
from offramp_export._require import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp_export._litert.precision import StagePrecision

__all__ = ["make_recipe", "name_by_stage", "scopes"]

_WEIGHT_BITS = 8
_HALF_BITS = 16


def make_recipe(names: Sequence[str], precisions: Sequence[StagePrecision]) -> Any:
    """The recipe that gives each stage its precision.

    A carry stays as the stage that makes it computed it, and the stage that reads it converts it:
    an image that leaves early never pays for a conversion.

    Args:
        names: The signatures, first stage to last; where the precisions differ, their tensors are
            called as ``name_by_stage`` calls them.
        precisions: One per stage.

    Returns:
        As ``ai_edge_quantizer.quantizer.Quantizer`` takes it.
    """
    with quiet():
        quantizer_package = require("ai_edge_quantizer")
        from ai_edge_quantizer.recipe_manager import RecipeManager

        operation = quantizer_package.qtyping.TFLOperationName
        manager = RecipeManager()
        before = precisions[0]
        for scope, precision in scopes(names, precisions).items():
            _add_rule(manager, f"^{scope}", operation.ALL_SUPPORTED, precision)
            if edge_dtype(before) != edge_dtype(precision):
                made = before if before in STATIC else "float32"
                _add_rule(manager, f"^{scope}", operation.INPUT, made)
            before = precision
        return manager.get_quantization_recipe()


def scopes(names: Sequence[str], precisions: Sequence[StagePrecision]) -> dict[str, StagePrecision]:
    """How the names of the tensors of each precision begin; all of them, where there is but one."""
    if len(set(precisions)) == 1:
        return {"": precisions[0]}
    return {f"{name}/": precision for name, precision in zip(names, precisions, strict=True)}


def name_by_stage(program: bytes) -> bytes:
    """The program with every tensor called ``signature/...``, so that a rule can name its stage."""
    model = read_model(program)
    for signature in model.signatureDefs:
        for tensor in model.subgraphs[signature.subgraphIndex].tensors:
            tensor.name = signature.signatureKey + b"/" + tensor.name
    return write_model(model)


def _add_rule(manager: Any, scope: str, operation: Any, precision: StagePrecision) -> None:
    algorithms = require("ai_edge_quantizer").algorithm_manager.AlgorithmName
    if precision == "float32":
        manager.add_quantization_config(scope, operation, algorithm_key=algorithms.NO_QUANTIZE)
    elif precision == "float16":
        manager.add_weight_only_config(
            scope, operation, _HALF_BITS, algorithm_key=algorithms.FLOAT_CASTING
        )
    elif precision == "dynamic_int8":
        manager.add_dynamic_config(scope, operation, _WEIGHT_BITS)
    else:
        manager.add_static_config(scope, operation, STATIC[precision].bits, _WEIGHT_BITS)
