"""Which operator a converter refuses, and which layer of the user's network calls it."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, fx, nn

from offramp.errors import ConversionError, ExportError
from offramp_export.culprit import Search, is_row
from offramp_export.cut import copy_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from offramp_export.targets import Target

__all__ = ["name_operator"]

# What to write in place of what is refused most often.
_INSTEAD = {
    "adaptive_max_pool2d": "write x.amax((2, 3)) for its maximum, or a MaxPool2d of fixed size",
    "topk": "return the logits and sort them in the app",
    "sort": "return the logits and sort them in the app",
}


def name_operator(
    error: ConversionError,
    stages: Sequence[nn.Module],
    target: Target,
    size: tuple[int, int],
    calibration_images: NDArray[np.uint8] | None = None,
) -> ConversionError:
    """The same error with the operator and its layer, or with why none could be named.

    Each kind of operator in the network is converted alone in float32, those first that the
    converter spoke of, until one is refused. If none is, it was the quantiser: then the network is
    converted up to the first operator of each kind.

    Args:
        error: What the target said.
        stages: As ``prepare_stages`` returns them.
        target: That refused them.
        size: Height and width of the image.
        calibration_images: What the target was given.
    """
    try:
        alone = target.for_stage(error.stage or 0)
        blank = np.zeros((1, *size, 3), np.uint8)
        search = Search(stages, alone, blank, -1, calibration_images)
        refused = _first_refused(search, str(error), target.plain())
        if refused is None and alone != target.plain():
            refused = _first_not_quantised(search)
        if refused is None:
            said = "no operator is refused alone, so it is how two of them stand together"
            return ConversionError(f"{error}; {said}")
        stage, layer = search.place(refused)
    except ConversionError as failure:
        if failure.stage is None or failure.layer is None:
            return ConversionError(f"{error}; the operator could not be found: {failure}")
        return _named(error, failure.stage, failure.layer, failure.operator, None)
    except ExportError as failure:
        return ConversionError(f"{error}; the operator could not be found: {failure}")
    return _named(error, stage, layer, str(refused.target), _INSTEAD.get(_name(refused)))


def _named(
    error: ConversionError, stage: int, layer: str, operator: str | None, instead: str | None
) -> ConversionError:
    where = f"layer {layer!r} of stage {stage}" if layer else f"stage {stage} itself"
    what = f"{operator} in {where}" if operator else where
    return ConversionError(
        f"{error}; what it refuses is {what}" + (f": {instead}" if instead else ""),
        stage=stage,
        layer=layer,
        operator=operator,
    )


def _first_not_quantised(search: Search) -> fx.Node | None:
    kinds: dict[str, fx.Node] = {}
    for node in search.order:
        if node in search.depends and is_row(node):
            kinds.setdefault(str(node.target), node)
    return next((node for node in kinds.values() if search.refuses(node)), None)


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
