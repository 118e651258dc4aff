"""Reading a base network: from ``torch.export``'s graph to nodes with rules."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, fx, nn

from offramp.errors import ShapeError, UnsupportedOperatorError
from offramp_search.spaces import _operators as op
from offramp_search.spaces.static_transform._exits import exit_layers
from offramp_search.spaces.static_transform._orders import find_fates, storage_orders
from offramp_search.spaces.static_transform._places import whole_cost
from offramp_search.spaces.static_transform._rules import (
    Arranged,
    Call,
    ChannelSliceRule,
    DenseRule,
    Operand,
    PadRule,
    Rule,
    SumRule,
    arrange,
    read_call,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from offramp_search.spaces.static_transform._exits import Layer
    from offramp_search.spaces.static_transform._orders import Fates
    from offramp_search.spaces.static_transform._rules import Channels

__all__ = ["IMAGE", "Graph", "Node", "read_graph"]

IMAGE = 0
"""Index of the node that stands for the normalised image."""


@final
@dataclass(frozen=True)
class Node:
    """One operator of the base.

    Attributes:
        name: Unique, made from the module's path; fit to name a module with.
        path: Where in the base's module it is called.
        rule: What it does; ``None`` for the image.
        operands: The nodes that it reads.
        shape: Of its output, without the images.
    """

    name: str
    path: str
    rule: Rule | None
    operands: tuple[int, ...]
    shape: tuple[int, ...]


@final
@dataclass(frozen=True)
class Graph:
    """The base without its classifier, and with a pooling wherever an exit may hang.

    Attributes:
        nodes: In the order of computation; operands come before their readers. Those of the base
            come first.
        features: What the base's own classifier reads.
        classifier: The base's final linear layer.
        hosts: Pooled features of every map that an exit can hang on, in the order of computation.
        base_size: How many nodes are the base's; the others lead to one host each, one after the
            other: its head, if exits have heads, and its pooling.
    """

    nodes: tuple[Node, ...]
    features: int
    classifier: DenseRule
    hosts: tuple[int, ...]
    base_size: int

    @cached_property
    def readers(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each node, which nodes read it, as which operand."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for position, operand in enumerate(node.operands):
                found[operand].append((index, position))
        return tuple(map(tuple, found))

    @cached_property
    def maps(self) -> dict[int, int]:
        """For each host the map of the base that its features are made of."""
        return {host: self.nodes[way[0]].operands[0] for host, way in self.ways.items()}

    @cached_property
    def ways(self) -> dict[int, tuple[int, ...]]:
        """For each host the nodes that make its features of its map, itself last."""
        return {host: self.way_to(host) for host in self.hosts}

    def way_to(self, index: int) -> tuple[int, ...]:
        """The nodes behind the base that lead to a node, itself last; none if it is the base's."""
        way: list[int] = []
        while index >= self.base_size:
            way.insert(0, index)
            (index,) = self.nodes[index].operands
        return tuple(way)

    @cached_property
    def heads(self) -> dict[int, int]:
        """For each host the convolution of its head; none where exits have no heads."""
        return {
            host: index
            for host, way in self.ways.items()
            for index in way
            if isinstance(self.nodes[index].rule, DenseRule)
        }

    @cached_property
    def orders(self) -> tuple[Channels | None, ...]:
        """For each node its channels as they are stored; ``None`` if in their own order."""
        return storage_orders(self)

    @cached_property
    def fates(self) -> tuple[Fates, ...]:
        """For each node the slices that each channel passes through."""
        return find_fates(self)

    @property
    def classes(self) -> int:
        """Outputs of the classifier."""
        return self.classifier.whole.outputs


def read_graph(
    base: nn.Module,
    image_shape: tuple[int, int],
    exit_grid: int = 1,
    exit_head_channels: int = 0,
    *,
    seed: int = 0,
) -> Graph:
    """Read a base network.

    Args:
        base: Takes ``(images, 3, height, width)`` float32 and returns ``(images, classes)`` logits.
            It is read in evaluation mode and left in the mode it was in.
        image_shape: Height and width.
        exit_grid: Rows and columns, at most, that an exit before the base's own sees of a map.
        exit_head_channels: Channels of the convolution that such an exit begins with; 0 is none.
        seed: For the weights of those convolutions.

    Raises:
        UnsupportedOperatorError: The base uses an operator that has no rule.
        ShapeError: The base does not take such images.
    """
    training = base.training
    # Two images: a batch of one would let a reshape that mixes images pass unnoticed.
    example = torch.zeros(2, 3, *image_shape)
    try:
        with torch.no_grad():
            logits = base.eval()(example)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 2:
            raise ShapeError(
                f"The base must return (images, classes) logits for images of "
                f"{image_shape[0]}×{image_shape[1]}; it returned "
                f"{tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__}."
            )
        exported = torch.export.export(base, (example,))
    finally:
        base.train(training)
    reader = _Reader(exported)
    return reader.read(exit_grid, exit_head_channels, torch.Generator().manual_seed(seed))


class _Reader:
    """Walks an exported program once."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        signature = exported.graph_signature
        keys: dict[str, str] = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        state = {**exported.constants, **exported.state_dict}
        self._graph = exported.graph
        self._values: dict[fx.Node, Any] = {}
        self._images = set(signature.user_inputs)
        self._constants = {name: state[key] for name, key in keys.items() if key in state}
        self._nodes: list[Node] = []
        self._names: Counter[str] = Counter()

    def read(self, exit_grid: int, head_channels: int, generator: torch.Generator) -> Graph:
        output: Operand | None = None
        for node in self._graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._placeholder(node)
            elif node.op == "call_function":
                self._read_call(node)
            elif node.op == "output":
                output = self._values[node.args[0][0]]
        if output is None:
            raise ShapeError("The base returns nothing that depends on the image.")
        graph = self._finish(output.node)
        hosts = []
        for index in self._hosts(graph):
            layers = exit_layers(
                graph.nodes[index].shape,
                grid=exit_grid,
                channels=head_channels,
                spent=sum(whole_cost(graph, before) for before in range(index + 1)),
                generator=generator,
            )
            hosts.append(self._hang(index, layers))
        return replace(graph, nodes=tuple(self._nodes), hosts=tuple(hosts))

    def _placeholder(self, node: fx.Node) -> Any:
        if node.name in self._images:
            return self._append("image", "", None, (), tuple(node.meta["val"].shape[1:]))
        tensor = self._constants.get(node.name)
        return None if tensor is None else tensor.detach().clone()

    def _append(
        self,
        name: str,
        path: str,
        rule: Rule | None,
        operands: Sequence[Operand],
        shape: tuple[int, ...],
    ) -> Operand:
        if hasattr(nn.ModuleDict, name):
            name = f"{name}_"  # such as a layer that is called "values"
        self._names[name] += 1
        if self._names[name] > 1:
            name = f"{name}_{self._names[name]}"
        sources = tuple(operand.node for operand in operands)
        self._nodes.append(Node(name, path, rule, sources, shape))
        return Operand(len(self._nodes) - 1, shape)

    def _read_call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            source, index = node.args
            self._values[node] = self._values[source][index]  # type: ignore[index]
            return
        if str(node.target).startswith(("aten._assert", "aten.sym_")):
            return
        call = self._call(node)
        if call.operator in (
            "aten.chunk.default",
            "aten.split.Tensor",
            "aten.split_with_sizes.default",
        ):
            self._values[node] = self._split(call, node)
            return
        arranged = arrange(call)
        if isinstance(arranged, Arranged):
            self._values[node] = arranged
            return
        reading = arranged or read_call(call)
        if reading.rule is None:
            self._values[node] = reading.operands[0]
            return
        kind = "shuffle" if arranged else call.operator.split(".")[1].strip("_")
        name = call.path.replace(".", "_") if self._is_module(node) else f"{call.path}_{kind}"
        name = name.replace(".", "_").strip("_") or kind
        result = self._append(name, call.path, reading.rule, reading.operands, call.shape)
        self._values[node] = result
        if call.operator.split(".")[1].endswith("_"):
            # Changed in place: whoever holds the operand holds the result from here on.
            before = reading.operands[0]
            for other, value in self._values.items():
                if isinstance(value, Operand) and value.node == before.node:
                    self._values[other] = result

    def _split(self, call: Call, node: fx.Node) -> list[Operand]:
        x = call.operand("self")
        if call.arguments["dim"] % (len(x.shape) + 1) != 1:
            raise call.unsupported("only channels can be split")
        parts, start = [], 0
        for value in node.meta["val"]:
            size = value.shape[1]
            rule = ChannelSliceRule(start, size, x.shape[0])
            name = f"{call.path}_part".replace(".", "_").strip("_")
            parts.append(self._append(name, call.path, rule, (x,), tuple(value.shape[1:])))
            start += size
        return parts

    def _call(self, node: fx.Node) -> Call:
        schema = getattr(node.target, "_schema", None)
        path = _path(node)
        if schema is None:
            name = str(node.target)
            raise Call(name, path, {}, ()).unsupported()
        arguments: dict[str, Any] = {
            argument.name: argument.default_value for argument in schema.arguments
        }
        arguments |= {
            argument.name: value
            for argument, value in zip(schema.arguments, node.args, strict=False)
        }
        arguments |= node.kwargs
        value = node.meta.get("val")
        shape = tuple(value.shape[1:]) if isinstance(value, Tensor) else ()
        return Call(str(node.target), path, fx.map_arg(arguments, self._values.__getitem__), shape)

    def _is_module(self, node: fx.Node) -> bool:
        """Whether the innermost module is one of torch's own layers."""
        stack = node.meta.get("nn_module_stack") or {}
        kinds = [str(kind) for _, kind in stack.values()]
        return bool(kinds) and kinds[-1].startswith("torch.nn.modules.")

    def _finish(self, output: int) -> Graph:
        """The base, before anything hangs on it."""
        last = self._nodes[output]
        if not isinstance(last.rule, DenseRule) or not isinstance(last.rule.whole, op.Linear):
            raise UnsupportedOperatorError(
                "The static transform repeats the final linear layer at every exit, but the base "
                f"ends in {last.name!r}; end it in a linear layer.",
                operator=last.name,
                module_path=last.path,
            )
        features = last.operands[0]
        nodes = self._nodes[:output] + self._nodes[output + 1 :]
        if any(output in node.operands for node in nodes):
            raise UnsupportedOperatorError(
                "The base goes on computing with its final logits; return them as they are.",
                operator="aten.linear.default",
                module_path=last.path,
            )
        self._nodes = nodes[:output]
        graph = Graph(tuple(self._nodes), features, last.rule, (), len(self._nodes))
        self._refuse_padding(graph.readers)
        return graph

    def _hosts(self, graph: Graph) -> list[int]:
        return [
            index
            for index, node in enumerate(graph.nodes)
            if node.rule is not None and node.rule.hosts and len(node.shape) == 3
            if node.shape[1:] != (1, 1) and not self._continues(graph.readers[index])
        ]

    def _continues(self, readers: Sequence[tuple[int, int]]) -> bool:
        rules = [self._nodes[index].rule for index, _ in readers]
        return any(rule is not None and rule.continues for rule in rules)

    def _hang(self, index: int, layers: Iterable[Layer]) -> int:
        node = self._nodes[index]
        source = Operand(index, node.shape)
        for part, rule, shape in layers:
            name = f"{node.name}_exit_{part}".rstrip("_")
            source = self._append(name, node.path, rule, (source,), shape)
        return source.node

    def _refuse_padding(self, readers: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Channels of zeros cost nothing where they are added to something, and only there."""
        padded = {
            index
            for index, node in enumerate(self._nodes)
            if isinstance(node.rule, PadRule) and any(node.rule.whole.padding[4:])
        }
        for index in padded:
            for reader, _ in readers[index]:
                node = self._nodes[reader]
                added = isinstance(node.rule, SumRule) and isinstance(node.rule.operator, op.Add)
                if not added or padded.issuperset(node.operands):
                    raise Call("aten.pad.default", self._nodes[index].path, {}, ()).unsupported(
                        "channels of zeros may only be added to something"
                    )


def _path(node: fx.Node) -> str:
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1] if paths else ""
