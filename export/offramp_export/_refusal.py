"""Which operator a converter refuses, and which layer of the user's network calls it."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, fx, nn

from offramp.errors import ConversionError, ExportError
from offramp_export.culprit import Search
from offramp_export.cut import copy_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp_export.targets import Target

__all__ = ["name_operator"]

# What to write in place of what is refused most often.
_INSTEAD = {
    "adaptive_max_pool2d": "write x.amax((2, 3)) for its maximum, or a MaxPool2d of fixed size",
    "topk": "return the logits and sort them in the app",
    "sort": "return the logits and sort them in the app",
}


def name_operator(
    error: ConversionError, stages: Sequence[nn.Module], target: Target, size: tuple[int, int]
) -> ConversionError:
    """The same error with the operator and its layer, or with why none could be named.

    Each kind of operator in the network is converted alone, those first that the converter spoke
    of, until one is refused.

    Args:
        error: What the target said.
        stages: As ``prepare_stages`` returns them.
        target: That refused them.
        size: Height and width of the image.
    """
    try:
        search = Search(stages, target, np.zeros((1, *size, 3), np.uint8), 0, None)
        refused = _first_refused(search, str(error), target.plain())
        if refused is None:
            said = "no operator is refused alone, so it is how two of them stand together"
            return ConversionError(f"{error}; {said}")
        stage, layer = search.place(refused)
    except ExportError as failure:
        return ConversionError(f"{error}; the operator could not be found: {failure}")
    where = f"layer {layer!r} of stage {stage}" if layer else f"stage {stage} itself"
    instead = _INSTEAD.get(_name(refused))
    return ConversionError(
        f"{error}; what it refuses is {refused.target} in {where}"
        + (f": {instead}" if instead else ""),
        stage=stage,
        layer=layer,
        operator=str(refused.target),
    )


def _first_refused(search: Search, said: str, target: Target) -> fx.Node | None:
    kinds: dict[str, fx.Node] = {}
    for node in search.order:
        if node.op == "call_function" and node.target is not operator.getitem and _parts(node):
            kinds.setdefault(str(node.target), node)
    for node in sorted(kinds.values(), key=lambda node: _name(node) not in said):
        inputs, inside, outputs = _parts(node)
        graph = copy_graph(inputs, inside, outputs)
        alone = fx.GraphModule(search.module, graph).eval()
        shapes = [tuple(one.meta["val"].shape) for one in inputs]
        try:
            # As a second stage: the first one's input is an image.
            target.convert([_Flat().eval(), alone], [[(1, 2, 2, 3)], shapes], None)
        except ConversionError:
            return node
    return None


def _parts(node: fx.Node) -> Any:
    """Inputs, nodes and outputs of a graph of this operator alone; empty if it is not of floats."""
    weights = [one for one in node.all_input_nodes if one.op == "get_attr"]
    inputs = [one for one in node.all_input_nodes if one.op != "get_attr"]
    outputs = [node]
    if not isinstance(node.meta.get("val"), Tensor):
        outputs = [one for one in node.users if one.target is operator.getitem]
    outputs = [one for one in outputs if _is_float(one)]
    if not inputs or not outputs or not all(map(_is_float, inputs)):
        return ()
    return inputs, [*weights, *dict.fromkeys((node, *outputs))], outputs


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.float32 and value.ndim > 0


def _name(node: fx.Node) -> str:
    """Of an operator, such as ``conv2d`` of ``aten.conv2d.default``."""
    name: str = getattr(node.target, "__name__", str(node.target)).partition(".")[0]
    return name


@final
class _Flat(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (image.flatten(1),)
