"""Computing a saved Core ML package where Core ML itself does not run.

What is read is the package on disk: its program and its weight file, as a device would load them.
Every result is rounded to the type the program declares for it, so float16 overflow and rounding
show; a device may still add up in another order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import torch
from torch import Tensor

from offramp.errors import ExportError
from offramp_export._require import require
from offramp_export.targets._mil_operators import OPERATORS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["SavedProgram"]


@final
class SavedProgram:
    """The functions of one saved package.

    Args:
        model: A ``coremltools.models.MLModel``; its program and weight file are read, no more.

    Raises:
        ExportError: The program holds an operator that is not known here; names all such.
    """

    def __init__(self, model: Any) -> None:
        from coremltools.converters.mil.frontend.milproto.load import load
        from coremltools.converters.mil.mil import types

        spec = model.get_spec()
        self._type_name = types.builtin_to_string
        self._functions = load(spec, spec.specificationVersion, model.weights_dir).functions
        # Weights that are stored in fewer bits, unpacked once.
        self._weights: dict[str, dict[str, Tensor]] = {}
        unknown = {
            operation.op_type
            for function in self._functions.values()
            for operation in function.operations
            if not _is_constant(operation) and operation.op_type not in OPERATORS
        }
        if unknown:
            raise ExportError(
                f"Core ML: cannot prove a program with {', '.join(sorted(unknown))}, which the "
                "evaluator does not know; replace the operator, or leave Core ML out of the targets"
            )

    @classmethod
    def open(cls, package: Path) -> Self:
        """Read an ``.mlpackage`` folder."""
        models = require("coremltools").models
        return cls(models.MLModel(str(package), skip_model_load=True))

    def joins(self, function: str) -> list[tuple[str, ...]]:
        """Names of the tensors at each concatenation of a function, its result among them."""
        return [
            tuple(value.name for value in (*operation.inputs["values"], *operation.outputs))
            for operation in self._functions[function].operations
            if operation.op_type == "concat"
        ]

    def run(
        self,
        function: str,
        inputs: Sequence[Tensor],
        *,
        observe: Callable[[str, Tensor], None] | None = None,
    ) -> tuple[Tensor, ...]:
        """Run one function.

        Args:
            function: Its name.
            inputs: In order.
            observe: Called with the name and the value of every tensor that is computed.

        Returns:
            Its outputs, in order.
        """
        graph = self._functions[function]
        weights = self._weights.setdefault(function, {})
        values: dict[str, Tensor] = dict(zip(graph.inputs, inputs, strict=True))
        if observe is not None:
            for name, value in values.items():
                observe(name, value)
        with torch.no_grad():
            for operation in graph.operations:
                if operation.op_type == "const":
                    continue
                if _is_constant(operation):
                    (variable,) = operation.outputs
                    if variable.name not in weights:
                        weights[variable.name] = torch.from_numpy(
                            operation.materialized_val_inference().astype(np.float32)
                        )
                    values[variable.name] = weights[variable.name]
                    continue
                arguments = {
                    name: self._argument(value, values)
                    for name, value in operation.inputs.items()
                    if value is not None
                }
                try:
                    results = OPERATORS[operation.op_type](**arguments)
                except (KeyError, TypeError, ValueError) as error:
                    raise ExportError(
                        f"Core ML: cannot prove {function}: {operation.op_type} "
                        f"{operation.name!r} is used in a way the evaluator does not know ({error})"
                    ) from error
                if isinstance(results, Tensor):
                    results = (results,)
                for variable, result in zip(operation.outputs, results, strict=True):
                    values[variable.name] = self._round(result, variable)
                    if observe is not None:
                        observe(variable.name, values[variable.name])
        return tuple(values[output.name] for output in graph.outputs)

    def _argument(self, value: Any, values: dict[str, Tensor]) -> Any:
        if isinstance(value, list | tuple):
            return [self._argument(item, values) for item in value]
        if value.name in values:
            return values[value.name]
        constant = value.val
        if isinstance(constant, np.ndarray):
            if constant.dtype.kind == "f":
                return torch.from_numpy(constant.astype(np.float32))
            return constant.tolist()
        if isinstance(constant, np.generic):
            return constant.item()
        return constant

    def _round(self, result: Tensor, variable: Any) -> Tensor:
        kind = variable.dtype if not hasattr(variable.dtype, "get_primitive") else None
        if kind is not None and self._type_name(kind) == "fp16":
            return result.to(torch.float16).to(torch.float32)
        return result


def _is_constant(operation: Any) -> bool:
    kind: str = operation.op_type
    return kind == "const" or kind.startswith("constexpr_")
