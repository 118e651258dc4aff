"""The image of a quantised ExecuTorch program, kept exact; see ``offramp_export._exact_image``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch

from offramp_export._exact_image import split_normalization

if TYPE_CHECKING:
    from offramp_export._exact_image import ExactImage

__all__ = ["ExactEdges", "keep_image_exact"]

_ATEN = torch.ops.aten
_WEIGHT, _BIAS, _READER = "exact_image_weight", "exact_image_bias", "exact_image_reader_weight"
_PIXEL_ZERO = -128


@final
@dataclass(frozen=True, slots=True)
class ExactEdges:
    """The scale of what the first convolution makes.

    Attributes:
        unit: Of one step.
        zero_point: Of the same.
    """

    unit: float
    zero_point: int

    def fix(self, observed: torch.fx.GraphModule) -> None:
        """Let the observers of the image and of what the first convolution makes say this."""
        from torchao.quantization.pt2e.observer import FixedQParamsObserver

        (first,) = (
            node
            for node in observed.graph.nodes
            if node.target is _ATEN.conv2d.default
            and any(_reads(argument, _WEIGHT) for argument in node.args)
        )
        (after,) = first.users
        for node, scale, zero_point in (
            (first.args[0], 1.0, _PIXEL_ZERO),
            (after, self.unit, self.zero_point),
        ):
            observer = FixedQParamsObserver(
                scale=scale, zero_point=zero_point, dtype=torch.int8, quant_min=-128, quant_max=127
            )
            observed.add_submodule(str(node.target), observer)


def keep_image_exact(module: torch.fx.GraphModule) -> ExactEdges | None:
    """Rewrite the normalisation at the start of a stage, if a convolution alone reads it.

    Args:
        module: Of an exported program, normalising as ``quantizable_preprocess`` does; changed in
            place.

    Returns:
        ``None``, and nothing is changed, where another operator reads the normalised image.
    """
    found = _find(module)
    if found is None:
        return None
    first, reader = found
    scale, offset, weights = (
        _value(module, node) for node in (first.args[1], first.args[2], reader.args[1])
    )
    exact = split_normalization(
        scale.reshape(-1).numpy(), offset.numpy(), weights.permute(0, 2, 3, 1).numpy()
    )
    if exact is None:
        return None
    _rewrite(module, first, reader, exact)
    return ExactEdges(exact.unit, _PIXEL_ZERO + exact.grey)


def _find(module: torch.fx.GraphModule) -> tuple[Any, Any] | None:
    for node in module.graph.nodes:
        if node.target is not _ATEN.conv2d.default:
            continue
        # The first one is the normalisation, or there is none.
        users = list(node.users)
        if len(users) != 1 or users[0].target is not _ATEN.conv2d.default:
            return None
        (reader,) = users
        plain = (
            len(node.args) == 7
            and node.args[6] == _value(module, node.args[1]).shape[0]
            and _value(module, node.args[1]).shape[1:] == (1, 1, 1)
            and node.args[2] is not None
            and reader.args[0] is node
            and (len(reader.args) < 7 or reader.args[6] == 1)
        )
        return (node, reader) if plain else None
    return None


def _rewrite(module: torch.fx.GraphModule, first: Any, reader: Any, exact: ExactImage) -> None:
    constants = {
        _WEIGHT: torch.from_numpy(exact.weights).reshape(4, 3, 1, 1),
        _BIAS: torch.from_numpy(exact.bias),
        _READER: torch.from_numpy(exact.reader_weights).permute(0, 3, 1, 2).contiguous(),
    }
    graph = module.graph
    nodes = {}
    for (name, value), old in zip(
        constants.items(), (first.args[1], first.args[2], reader.args[1]), strict=True
    ):
        setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
        with graph.inserting_before(first):
            nodes[name] = graph.get_attr(name)
        nodes[name].meta = dict(old.meta)
        if "val" in old.meta:
            with old.meta["val"].fake_mode:
                nodes[name].meta["val"] = torch.empty(value.shape)
    first.args = (first.args[0], nodes[_WEIGHT], nodes[_BIAS])
    made = first.meta["val"]
    first.meta["val"] = torch.cat([made, made[:, :1]], 1)
    first.meta.pop("tensor_meta", None)
    reader.args = (first, nodes[_READER], *reader.args[2:])
    graph.eliminate_dead_code()
    module.recompile()


def _value(module: torch.fx.GraphModule, node: Any) -> torch.Tensor:
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    value: torch.Tensor = found.detach()
    return value


def _reads(node: Any, name: str) -> bool:
    """Whether a node is a constant, or what an observer saw of it."""
    if not isinstance(node, torch.fx.Node):
        return False
    return node.target == name or any(_reads(argument, name) for argument in node.args[:1])
