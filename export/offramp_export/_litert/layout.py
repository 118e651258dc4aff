"""Taking out transposes that the converter left inside a graph.

It computes channel-last but leaves slices, pads, joins and some activations channel-first between
two transposes. Here every transpose is moved past the operators behind it, whose axes change with
it, until it meets the transpose back and both vanish. A graph that would not have fewer of them in
the end stays as it was.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp_export._litert.tree import Tree, opcodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["drop_transposes"]

_UNARY = frozenset(
    {"ABS", "ELU", "EXP", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "RELU", "RELU6"}
    | {"RSQRT", "SQRT", "TANH"}
)
_BINARY = frozenset(["ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "SUB"])
_REDUCTIONS = frozenset(["MEAN", "REDUCE_MAX", "REDUCE_MIN", "SUM"])
_ROWS = frozenset({"PAD", "SLICE", "STRIDED_SLICE"})  # with constants that have a row per axis
_MOVABLE = _UNARY | _BINARY | _REDUCTIONS | _ROWS | {"CONCATENATION"}


def drop_transposes(model: Any) -> None:
    """Drop what transposes can be dropped from every graph of a float model."""
    for index, graph in enumerate(model.subgraphs):
        trial = _Layout(model, copy.deepcopy(graph))
        trial.move_all()
        if trial.count() < _Layout(model, graph).count():
            trial.tree.prune()
            model.subgraphs[index] = trial.tree.graph


@final
class _Layout:
    def __init__(self, model: Any, graph: Any) -> None:
        self.tree = Tree(model, graph)
        self.names = opcodes(model)

    def count(self) -> int:
        """How many transposes there are."""
        return sum(self._name(operator) == "TRANSPOSE" for operator in self.tree.graph.operators)

    def move_all(self) -> None:
        """Move transposes towards the outputs as far as they go, dropping those that meet."""
        graph = self.tree.graph
        place = 0
        # In order, so that a transpose that was moved past one operator is seen by the next.
        while place < len(graph.operators):
            operator = graph.operators[place]
            if self._name(operator) == "TRANSPOSE":
                self._cancel(operator)
            else:
                self._move_past(operator, place)
            place += 1
        self.tree.drop_unread()

    def _name(self, operator: Any) -> str:
        name: str = self.names(operator)
        return name

    def _source(self, tensor: int) -> tuple[int, tuple[int, ...]] | None:
        """The tensor that this one is the transpose of, and the permutation."""
        maker = self.tree.maker(tensor)
        if maker is None or self._name(maker) != "TRANSPOSE":
            return None
        permutation = self.tree.integers(int(maker.inputs[1]))
        return None if permutation is None else (int(maker.inputs[0]), tuple(permutation))

    def _cancel(self, operator: Any) -> None:
        output = int(operator.outputs[0])
        outer, inner = self._source(output), self._source(int(operator.inputs[0]))
        if outer is None or inner is None:
            return
        if [inner[1][axis] for axis in outer[1]] == list(range(len(outer[1]))):
            self.tree.replace(output, inner[0])

    def _move_past(self, operator: Any, place: int) -> None:
        name = self._name(operator)
        if name not in _MOVABLE:
            return
        joined = name == "CONCATENATION" or name in _BINARY
        data = [int(tensor) for tensor in (operator.inputs if joined else operator.inputs[:1])]
        sources = {tensor: self._source(tensor) for tensor in data}
        permutations = {source[1] for source in sources.values() if source is not None}
        if len(permutations) != 1:
            return
        (permutation,) = permutations
        for tensor, source in sources.items():
            # Of what is not transposed only a number may take part, which has no axes.
            if source is None and not (self.tree.is_constant(tensor) and self._size(tensor) == 1):
                return
        still_transposed = self._change_axes(name, operator, permutation)
        if still_transposed is None:
            return
        moved = {tensor: source[0] for tensor, source in sources.items() if source is not None}
        operator.inputs = np.array(
            [moved.get(int(tensor), int(tensor)) for tensor in operator.inputs], np.int32
        )
        if still_transposed:
            self._transpose_output(operator, place, permutation)

    def _size(self, tensor: int) -> int:
        return int(np.prod(self.tree.graph.tensors[tensor].shape))

    def _change_axes(self, name: str, operator: Any, permutation: tuple[int, ...]) -> bool | None:
        """Make an operator work on the untransposed input; ``None`` if it cannot.

        Returns:
            Whether its output is then the transpose of what it was.
        """
        options = operator.builtinOptions
        if name == "CONCATENATION":
            options.axis = permutation[options.axis % len(permutation)]
            return True
        if name in _REDUCTIONS:
            return self._change_reduction(operator, permutation)
        if name == "STRIDED_SLICE":
            if options.ellipsisMask or options.newAxisMask or options.shrinkAxisMask:
                return None
            options.beginMask, options.endMask = (
                sum((mask >> i & 1) << axis for i, axis in enumerate(permutation))
                for mask in (options.beginMask, options.endMask)
            )
        if name in _ROWS:
            rows = [self.tree.integers(int(tensor)) for tensor in operator.inputs[1:]]
            if any(row is None for row in rows):
                return None
            operator.inputs = np.array(
                [
                    operator.inputs[0],
                    *(
                        self.tree.constant(_by_axis(row, permutation))
                        for row in rows
                        if row is not None
                    ),
                ],
                np.int32,
            )
        return True

    def _change_reduction(self, operator: Any, permutation: tuple[int, ...]) -> bool | None:
        found = self.tree.integers(int(operator.inputs[1]))
        if found is None:
            return None
        axes = {axis % len(permutation) for axis in found}
        keeps = bool(operator.builtinOptions.keepDims)
        left = [axis for place, axis in enumerate(permutation) if place not in axes]
        if not keeps and left != sorted(left):
            return None
        reduced = self.tree.constant(np.array(sorted(permutation[axis] for axis in axes)))
        operator.inputs = np.array([operator.inputs[0], reduced], np.int32)
        return keeps

    def _transpose_output(self, operator: Any, place: int, permutation: tuple[int, ...]) -> None:
        """Let the operator write to a new tensor, and a transpose of that to the old one."""
        tree = self.tree
        output = int(operator.outputs[0])
        shape = np.array(tree.graph.tensors[output].shape)[np.argsort(permutation)]
        inner = tree.new_like(output, shape)
        tree.set_output(operator, inner)
        order = tree.constant(np.array(permutation))
        tree.add("TRANSPOSE", [inner, order], output, place=place + 1)


def _by_axis(values: list[int], permutation: tuple[int, ...]) -> NDArray[np.int64]:
    """What belongs to the axes of the transpose, in the order of the axes of its source."""
    rows = np.array(values).reshape(len(permutation), -1)[np.argsort(permutation)]
    return rows if rows.shape[1] > 1 else rows[:, 0]
