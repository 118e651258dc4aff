"""Which channels of a stage's activations can only be scaled together, and which not at all.

A convolution, a linear layer or a batch normalisation takes a scale of what it reads, and gives one
to what it makes, with its parameters. Everything between two such layers hands a channel's scale
on, ties it to another channel's, or fixes it at one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
from torch import Tensor, fx

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["FIXED", "ChannelTies", "Layer", "read_ties"]

FIXED = 0
"""The class of channels whose scale is one."""

_SAME = {
    "relu", "relu_", "leaky_relu", "leaky_relu_", "max_pool2d", "avg_pool2d",
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "dropout", "dropout_", "feature_dropout",
    "contiguous", "clone", "alias", "detach",
}  # fmt: skip
_SUMS = {"add", "add_", "sub", "sub_"}
_PRODUCTS = {"mul", "mul_"}
_RESHAPES = {"flatten", "view", "reshape", "squeeze", "unsqueeze"}
_FUSED = {"relu", "relu_", "hardtanh", "hardtanh_", "relu6"}
_MAP_RANK, _VECTOR_RANK = 4, 2
_OPERANDS = 2


@final
@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A node that can change the scale of every channel.

    Attributes:
        kind: ``spread`` reads all channels for each that it makes: a convolution or a linear layer.
            ``depthwise`` and ``batch_norm`` read one.
        weight: Key of the weight in the stage's state dict.
        bias: Key of the bias; ``None`` if it has none.
        mean: Key of the running mean of a batch normalisation.
        read: ``(inputs,)`` int64, the class of every channel it reads.
        made: ``(outputs,)`` int64, the class of every channel it makes.
    """

    kind: Literal["spread", "depthwise", "batch_norm"]
    weight: str
    bias: str | None
    mean: str | None
    read: NDArray[np.int64]
    made: NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class ChannelTies:
    """The layers of a stage, and the classes of the channels between them.

    Attributes:
        layers: In the order of the graph.
        rounded: Name of a node whose result int8 rounds with a scale of its own -> ``(channels,)``
            int64, the class of every channel.
    """

    layers: tuple[Layer, ...]
    rounded: dict[str, NDArray[np.int64]]


def read_ties(
    program: torch.export.ExportedProgram, may_change: Callable[[str], bool]
) -> ChannelTies:
    """Find the classes of channels that can only be scaled together.

    Args:
        program: A stage, batch 1, in evaluation mode, as ``torch.export`` leaves it.
        may_change: Whether a parameter or buffer, by its key in the state dict, is read by one
            node alone.
    """
    reader = _Reader(program, may_change)
    for node in program.graph.nodes:
        reader.read(node)
    return reader.result()


@final
@dataclass(eq=False)
class _Reader:
    program: torch.export.ExportedProgram
    may_change: Callable[[str], bool]
    parents: list[int] = field(default_factory=lambda: [FIXED])
    classes: dict[fx.Node, NDArray[np.int64]] = field(default_factory=dict)
    layers: dict[fx.Node, Layer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        signature = self.program.graph_signature
        self.keys = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}

    def result(self) -> ChannelTies:
        layers = tuple(
            Layer(
                layer.kind,
                layer.weight,
                layer.bias,
                layer.mean,
                self._roots(layer.read),
                self._roots(layer.made),
            )
            for layer in self.layers.values()
        )
        rounded = {
            node.name: self._roots(classes)
            for node, classes in self.classes.items()
            if not self._is_inside(node)
        }
        return ChannelTies(layers, rounded)

    def read(self, node: fx.Node) -> None:
        if node.op == "call_function":
            made = self._made(node)
            if made is not None:
                self.classes[node] = made
                return
        # What is not known to hand a scale on must be given, and gives, numbers as they are.
        self._fix(node)
        for source in node.all_input_nodes:
            self._fix(source)

    def _fix(self, node: fx.Node) -> None:
        if node in self.classes:
            self._tie(self.classes[node], np.zeros_like(self.classes[node]))
        elif (channels := _channels(node)) is not None and node.name not in self.keys:
            self.classes[node] = np.zeros(channels, np.int64)

    def _made(self, node: fx.Node) -> NDArray[np.int64] | None:
        name, values = _name(node), _arguments(node)
        if name in ("conv2d", "linear", "batch_norm"):
            return self._layer(node, name, values)
        if name == "cat":
            sources = [self.classes.get(source) for source in values["tensors"]]
            known = [source for source in sources if source is not None]
            along_channels = values["dim"] in (1, 1 - node.meta["val"].ndim)
            return np.concatenate(known) if along_channels and len(known) == len(sources) else None
        first = values.get("self", values.get("input"))
        source = self.classes.get(first) if isinstance(first, fx.Node) else None
        channels = _channels(node)
        if source is None or channels is None:
            return None
        if name in _SAME or (name in ("pad", "constant_pad_nd") and _pads_maps(values)):
            return source if len(source) == channels else None
        if name == "mean" and _is_over_places(node, values):
            return source
        if name in _RESHAPES:
            before = node.all_input_nodes[0].meta["val"].shape
            return _reshaped(source, before, node.meta["val"].shape)
        if name in _SUMS | _PRODUCTS:
            second = values["other"]
            other = self.classes.get(second) if isinstance(second, fx.Node) else None
            ranks = {each.meta["val"].ndim for each in (node, *node.all_input_nodes)}
            if other is None or len(node.all_input_nodes) != _OPERANDS or len(ranks) > 1:
                return None
            return self._joined(name, source, other, channels)
        return None

    def _joined(
        self, name: str, one: NDArray[np.int64], other: NDArray[np.int64], channels: int
    ) -> NDArray[np.int64] | None:
        if name in _SUMS:
            if len(one) != len(other):
                return None
            self._tie(one, other)
            return one
        # What is multiplied in place keeps its own scale.
        for value, factor in ((one, other), (other, one))[: 1 if name == "mul_" else 2]:
            if len(value) == channels and not self._roots(factor).any():
                return value
        return None

    def _layer(self, node: fx.Node, name: str, values: dict[str, Any]) -> NDArray[np.int64] | None:
        read = self.classes.get(values["input"])
        channels = _channels(node)
        weight, bias, mean = (
            self.keys.get(values[each].name) if isinstance(values.get(each), fx.Node) else None
            for each in ("weight", "bias", "running_mean")
        )
        if read is None or channels is None or weight is None:
            return None
        if values.get("bias") is not None and bias is None:
            return None
        kind: Literal["spread", "depthwise", "batch_norm"] = "spread"
        if name == "batch_norm":
            kind = "batch_norm"
            if values["training"] or bias is None or mean is None:
                return None
        elif values.get("groups", 1) != 1:
            kind = "depthwise"
            if values["groups"] != len(read):
                return None
        if not all(self.may_change(key) for key in (weight, bias, mean) if key is not None):
            return None
        if name == "linear" and values["input"].meta["val"].ndim != _VECTOR_RANK:
            return None
        first = len(self.parents)
        self.parents.extend(range(first, first + channels))
        made = np.arange(first, first + channels)
        self.layers[node] = Layer(kind, weight, bias, mean, read, made)
        return made

    def _tie(self, ones: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        for one, other in zip(self._roots(ones), self._roots(others), strict=True):
            # Roots may have changed with the pair before; the smaller number stays one.
            low, high = sorted((self._root(int(one)), self._root(int(other))))
            self.parents[high] = low

    def _root(self, index: int) -> int:
        while self.parents[index] != index:
            self.parents[index] = self.parents[self.parents[index]]
            index = self.parents[index]
        return index

    def _roots(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([self._root(int(index)) for index in classes], np.int64)

    def _is_inside(self, node: fx.Node) -> bool:
        """Whether int8 never rounds what a node makes, or does it with another one's scale."""
        readers = [_name(reader) for reader in node.users]
        if "cat" in readers:
            return True  # operands of a concatenation have the scale of the whole
        if len(readers) != 1:
            return False
        return readers[0] in _FUSED or (readers[0] == "batch_norm" and _name(node) == "conv2d")


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return getattr(packet, "__name__", "") if node.op == "call_function" else ""


def _arguments(node: fx.Node) -> dict[str, Any]:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    names = [argument.name for argument in schema.arguments]
    defaults = {argument.name: argument.default_value for argument in schema.arguments}
    return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}


def _channels(node: fx.Node) -> int | None:
    """Of a map or a vector of one image; ``None`` of anything else."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return None
    if value.ndim not in (_VECTOR_RANK, _MAP_RANK) or value.shape[0] != 1:
        return None
    return int(value.shape[1])


def _pads_maps(values: dict[str, Any]) -> bool:
    """Whether zeros are added, beside a map's places and not its channels."""
    return (
        values.get("mode", "constant") == "constant"
        and not values["value"]
        and len(values["pad"]) <= _MAP_RANK
    )


def _is_over_places(node: fx.Node, values: dict[str, Any]) -> bool:
    value = node.all_input_nodes[0].meta["val"]
    dims = values.get("dim") or ()
    return (
        value.ndim == _MAP_RANK and bool(dims) and sorted(dim % _MAP_RANK for dim in dims) == [2, 3]
    )


def _reshaped(
    classes: NDArray[np.int64], before: tuple[int, ...], after: tuple[int, ...]
) -> NDArray[np.int64] | None:
    """The classes of a map laid out as a vector, or of a vector as a map of one place."""
    if tuple(after[2:]) in ((), (1, 1)):
        return classes.repeat(int(after[1]) // len(classes))
    return classes if tuple(before) == tuple(after) else None
