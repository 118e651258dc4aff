"""Editing one graph of a ``.tflite`` file that is held as a tree of objects."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Tree", "opcodes", "signature_trees"]


def opcodes(model: Any) -> Callable[[Any], str]:
    """A function that gives the name of an operator."""
    from ai_edge_litert import schema_py_generated as schema

    names: dict[int, str] = {
        value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()
    }

    def name_of(operator: Any) -> str:
        code = model.operatorCodes[operator.opcodeIndex]
        number: int = max(code.builtinCode, code.deprecatedBuiltinCode)
        return names[number]

    return name_of


def signature_trees(model: Any, names: Collection[str]) -> Iterator[tuple[Any, Tree]]:
    """The signatures of those names, each with its graph to edit."""
    for signature in model.signatureDefs:
        if signature.signatureKey.decode() in names:
            yield signature, Tree(model, model.subgraphs[signature.subgraphIndex])


@final
class Tree:
    """One graph of a model, and the edits it takes.

    Args:
        model: The model; buffers and operator codes are added to it.
        graph: The graph, which is changed.
    """

    def __init__(self, model: Any, graph: Any) -> None:
        self.model = model
        self.graph = graph
        self._makers = {
            int(tensor): operator for operator in graph.operators for tensor in operator.outputs
        }

    def maker(self, tensor: int) -> Any:
        """The operator that computes a tensor, or ``None``."""
        return self._makers.get(tensor)

    def set_output(self, operator: Any, tensor: int) -> None:
        """Let an operator with one output compute another tensor."""
        self._makers.pop(int(operator.outputs[0]), None)
        operator.outputs = np.array([tensor], np.int32)
        self._makers[tensor] = operator

    def is_constant(self, tensor: int) -> bool:
        """Whether a tensor has its content in the file."""
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def integers(self, tensor: int) -> list[int] | None:
        """The content of a constant of int32; ``None`` if it is none."""
        from ai_edge_litert import schema_py_generated as schema

        if self.graph.tensors[tensor].type != schema.TensorType.INT32:
            return None
        if not self.is_constant(tensor):
            return None
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        values: list[int] = np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.int32).tolist()
        return values

    def floats(self, tensor: int) -> NDArray[np.float32]:
        """The content of a constant of float32."""
        found = self.graph.tensors[tensor]
        data = np.asarray(self.model.buffers[found.buffer].data, np.uint8).tobytes()
        return np.frombuffer(data, np.float32).reshape(found.shape)

    def readers(self, tensor: int) -> list[Any]:
        """The operators that read a tensor."""
        return [
            operator
            for operator in self.graph.operators
            if tensor in (int(each) for each in operator.inputs)
        ]

    def constant(
        self, values: NDArray[np.int64] | NDArray[np.float32], name: bytes | None = None
    ) -> int:
        """Add a constant of the shape of the values, int32 or float32, and return its tensor."""
        from ai_edge_litert import schema_py_generated as schema

        is_float = values.dtype == np.float32
        stored = np.asarray(values, np.float32 if is_float else np.int32)
        content = schema.BufferT()
        content.data = np.frombuffer(stored.tobytes(), np.uint8)
        self.model.buffers.append(content)
        tensor = schema.TensorT()
        tensor.name = name or self._name("constant")
        tensor.shape = np.array(values.shape, np.int32)
        tensor.type = schema.TensorType.FLOAT32 if is_float else schema.TensorType.INT32
        tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def new_like(self, tensor: int, shape: NDArray[np.int32]) -> int:
        """Add a tensor of the type of another one, computed at run time, and return it."""
        made = copy.copy(self.graph.tensors[tensor])
        made.name = self._name("value")
        made.shape = np.asarray(shape, np.int32)
        made.shapeSignature = None
        made.buffer = 0
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def add(
        self, name: str, inputs: Sequence[int], output: int, *, place: int | None = None
    ) -> Any:
        """Add an operator in front of the one at a place, or at the end, and return it."""
        from ai_edge_litert import schema_py_generated as schema

        operator = schema.OperatorT()
        operator.opcodeIndex = self.opcode(name)
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array([output], np.int32)
        operators = self.graph.operators
        operators.insert(len(operators) if place is None else place, operator)
        self._makers[output] = operator
        return operator

    def opcode(self, name: str) -> int:
        """The index of an operator code, added to the model if it is not there."""
        from ai_edge_litert import schema_py_generated as schema

        builtin = getattr(schema.BuiltinOperator, name)
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = builtin
        code.deprecatedBuiltinCode = min(builtin, 127)
        code.version = 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def replace(self, old: int, new: int) -> None:
        """Let whoever reads a tensor read another one; the graph may hand that out instead."""
        for reader in self.graph.operators:
            reader.inputs = np.where(reader.inputs == old, new, reader.inputs).astype(np.int32)
        outputs = self.graph.outputs
        self.graph.outputs = np.where(outputs == old, new, outputs).astype(np.int32)

    def drop_unread(self) -> None:
        """Drop operators whose results nobody reads, and those that only they read."""
        while True:
            read = {int(t) for operator in self.graph.operators for t in operator.inputs}
            read |= {int(tensor) for tensor in self.graph.outputs}
            kept = [
                operator
                for operator in self.graph.operators
                if any(int(tensor) in read for tensor in operator.outputs)
            ]
            if len(kept) == len(self.graph.operators):
                return
            self.graph.operators = kept

    def prune(self) -> None:
        """Drop tensors that nothing refers to; one without a maker confuses those who list them.

        All tensors get new numbers, those of the edges too.
        """
        graph = self.graph
        used = {int(tensor) for tensor in (*graph.inputs, *graph.outputs)}
        for operator in graph.operators:
            used |= {int(tensor) for tensor in (*operator.inputs, *operator.outputs)}
        order = sorted(used - {-1})
        places = {tensor: place for place, tensor in enumerate(order)} | {-1: -1}

        def renumber(tensors: Any) -> Any:
            return np.array([places[int(tensor)] for tensor in tensors], np.int32)

        graph.tensors = [graph.tensors[tensor] for tensor in order]
        graph.inputs, graph.outputs = renumber(graph.inputs), renumber(graph.outputs)
        for operator in graph.operators:
            operator.inputs = renumber(operator.inputs)
            operator.outputs = renumber(operator.outputs)
        self._makers = {
            int(tensor): operator for operator in graph.operators for tensor in operator.outputs
        }

    def _name(self, kind: str) -> bytes:
        graph = self.graph.name or b"graph"
        return bytes(graph) + f"/{kind}_{len(self.graph.tensors)}".encode()
