"""Maps cross the edges of XNNPACK's graphs as XNNPACK computes them: channels last."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from offramp_export._require import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["ChannelsLastEdges", "take_transposes_as_order", "without_transposes"]

_Order = tuple[int, ...]
_TO_FIRST: _Order = (0, 3, 1, 2)
_TO_LAST: _Order = (0, 2, 3, 1)
_SAME: _Order = (0, 1, 2, 3)
_PLAIN = torch.contiguous_format

_COPIES = ("aten.clone.default", "aten._to_copy.default")
_PERMUTE = "aten.permute_copy.default"
_CONVOLUTION = "aten.convolution.default"
_QUANTIZE = "quantized_decomposed.quantize_per_tensor.default"
_DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor.default"

_FEWEST_CHANNELS = 8
"""A constant per channel is multiplied with a whole row where channels come first, and with as many
numbers as there are channels where they come last: an image loses more by that than by a transpose.
"""


@final
class ChannelsLastEdges(nn.Module):
    """A stage that takes and hands on plain channels-last memory, and computes in torch's order.

    ExecuTorch takes a tensor in another memory order than it was exported with, without complaint,
    and reads it wrongly (https://github.com/pytorch/executorch/issues/21837); and a stage that only
    permutes the image would pass the image's own order all the way through.

    Args:
        stage: Takes the image, or maps in torch's order.
        reads_image: Whether it takes the image.
    """

    def __init__(self, stage: nn.Module, *, reads_image: bool) -> None:
        super().__init__()
        self.stage = stage
        self.reads_image = reads_image

    def forward(self, *carry: Tensor) -> tuple[Tensor, ...]:
        """The logits and the carry."""
        read = tuple(_moved(value, _TO_FIRST).contiguous() for value in carry)
        if self.reads_image:
            read = tuple(image.permute(_TO_LAST) for image in read)
        logits, *made = self.stage(*read)
        # What is handed on as it came needs no transpose, only memory of its own, as all the rest:
        # ExecuTorch's Python package gives every output new memory, and where an output is an input
        # what was in it is lost. A slice of everything is dropped on the way and leaves the input.
        passed = {id(inner): outer for inner, outer in zip(read, carry, strict=True)}
        made = [
            passed[id(value)] if id(value) in passed else _moved(value, _TO_LAST) for value in made
        ]
        return (logits.contiguous(), *(value.clone(memory_format=_PLAIN) for value in made))


def _moved(value: Tensor, order: _Order) -> Tensor:
    return value.permute(order) if value.ndim == len(order) else value


@contextmanager
def without_transposes() -> Iterator[None]:
    """Lower to XNNPACK without transposes between a channels-last edge and what is computed.

    A stage that permutes what it is given to torch's order is followed, in XNNPACK's graph, by the
    transpose back that every convolution asks for, and XNNPACK's lowering (executorch 1.5.1) drops
    such pairs of its own transposes only (https://github.com/pytorch/executorch/pull/11316): both
    would be computed at each run.
    """
    preprocess = require("executorch.backends.xnnpack.xnnpack_preprocess")
    from executorch.backends.xnnpack._passes.channels_last_tagged_reshape_pass import (
        ChannelsLastTaggedReshapePass as Deciding,  # what is transposed, by the order at the edges
    )

    manager, is_channels_last = preprocess.XNNPACKPassManager, Deciding._is_nhwc_tensor

    def with_ours(program: Any, passes: Any = None) -> Any:
        made = manager(program, passes)
        made.passes.insert(made.passes.index(Deciding), _make_pass())
        return made

    def is_first_channels_last(tensor: Tensor) -> bool:
        # Of an input that is rounded it asks about the first image alone, which has no such order.
        return bool(is_channels_last(tensor if tensor.ndim == len(_SAME) else tensor.unsqueeze(0)))

    preprocess.XNNPACKPassManager = with_ours
    Deciding._is_nhwc_tensor = staticmethod(is_first_channels_last)
    try:
        yield
    finally:
        preprocess.XNNPACKPassManager = manager
        Deciding._is_nhwc_tensor = staticmethod(is_channels_last)


def _make_pass() -> Any:
    from executorch.backends.xnnpack._passes.xnnpack_pass import XNNPACKPass
    from executorch.backends.xnnpack.utils.utils import is_param_node
    from executorch.exir.pass_base import PassResult

    class TransposesAsOrder(XNNPACKPass):  # type: ignore[misc, unused-ignore]
        def call(self, graph_module: torch.fx.GraphModule) -> Any:
            given = [
                node
                for node in graph_module.graph.find_nodes(op="placeholder")
                if not is_param_node(self.exported_program, node)
            ]
            return PassResult(graph_module, take_transposes_as_order(graph_module, given))

    return TransposesAsOrder


def take_transposes_as_order(module: torch.fx.GraphModule, given: Sequence[torch.fx.Node]) -> bool:
    """Replace permutations at a graph's edges by tensors of another memory order.

    A tensor ``(batch, height, width, channels)`` that is permuted to ``(batch, channels, height,
    width)`` is the second tensor with its channels last in memory; no element moves.

    Args:
        module: A graph as XNNPACK's lowering is given it; changed in place.
        given: Its inputs that are no constants.

    Returns:
        Whether there were any.
    """
    changed = [_take_in(node) for node in given]
    end: Any = module.graph.output_node()
    handed_on = list(end.args[0])
    for place, node in enumerate(handed_on):
        source = _hand_on(node, handed_on)
        if source is not None:
            handed_on[place] = source
            changed.append(True)
    if not any(changed):
        return False
    end.args = (tuple(handed_on),)
    module.graph.eliminate_dead_code()
    module.recompile()
    return True


def _take_in(node: torch.fx.Node) -> bool:
    way = _way_to_first(node)
    if not way:
        return False
    value = node.meta["val"]
    if value.shape[-1] >= _FEWEST_CHANNELS or _goes_to_convolutions(way[-1]):
        node.meta["val"] = value.permute(_TO_FIRST)
        way[-1].replace_all_uses_with(node)
    else:
        way[-1].replace_all_uses_with(way[0])
    return True


def _hand_on(node: torch.fx.Node, handed_on: Sequence[torch.fx.Node]) -> torch.fx.Node | None:
    """What takes the place of an output that is a permutation; it may be the output itself."""
    # What is made real on the way out stays the one that is: the others are marked as implied.
    is_real = _name(node) == _DEQUANTIZE and len(node.users) == 1
    end: Any = node.args[0] if is_real else node
    source = _source(end)
    if source is None or source in handed_on:
        return None
    value = source.meta["val"].contiguous(memory_format=torch.channels_last)
    if not is_real:
        source.meta["val"] = value
        return source
    node.replace_input_with(end, source)
    node.meta["val"] = value.to(node.meta["val"].dtype)
    return node


def _way_to_first(node: torch.fx.Node) -> list[torch.fx.Node]:
    """What has the values of an input in torch's order, if that is all it is read for."""
    if not _is_plain_map(node):
        return []
    found: list[torch.fx.Node] = []
    at, order, scale = node, _SAME, None
    while len(at.users) == 1:
        (at,) = at.users
        name = _name(at)
        if name == _PERMUTE:
            order = _then(order, at.args[1])
        elif name == _DEQUANTIZE and scale is None:
            scale = at.args[1:]
        elif name == _QUANTIZE and scale == at.args[1:]:
            scale = None
        elif name not in _COPIES:
            break
        # What leaves the graph in torch's order has to be made, and an input cannot leave it.
        leaves = any(reader.op == "output" for reader in at.users)
        if order == _TO_FIRST and scale is None and not leaves:
            found.append(at)
    return found


def _source(node: Any) -> torch.fx.Node | None:
    """What a tensor is a permutation of."""
    if not _is_plain_map(node):
        return None
    found: torch.fx.Node | None = None
    at, order, scale = node, _SAME, None
    while True:
        name = _name(at)
        if name == _PERMUTE:
            order = _then(at.args[1], order)
        elif name == _QUANTIZE and scale is None:
            scale = at.args[1:]
        elif name == _DEQUANTIZE and scale == at.args[1:]:
            scale = None
        elif name not in _COPIES:
            return found
        at = at.args[0]
        if order == _TO_LAST and scale is None and at.op != "placeholder":
            found = at


def _goes_to_convolutions(node: torch.fx.Node) -> bool:
    waiting, readers = [node], list[torch.fx.Node]()
    while waiting:
        for reader in waiting.pop().users:
            (waiting if _name(reader) in (_QUANTIZE, _DEQUANTIZE) else readers).append(reader)
    return all(_name(reader) == _CONVOLUTION for reader in readers)


def _then(first: Any, second: Any) -> _Order:
    """The one permutation that two come to."""
    return tuple(first[axis] % len(first) for axis in second)


def _is_plain_map(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim != len(_SAME) or not value.is_contiguous():
        return False
    # One channel, or one pixel, is the same memory in both orders: XNNPACK takes it for torch's.
    return not value.permute(_TO_FIRST).is_contiguous()


def _name(node: torch.fx.Node) -> str:
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""
