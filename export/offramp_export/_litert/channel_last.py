"""Stages whose edges are in the layout that channel-last runtimes compute in."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ChannelLast"]

_MAP_RANK = 4


@final
class ChannelLast(nn.Module):
    """A module with channel-last maps at its edges and channel-first ones inside.

    The converter moves the two permutations through the graph until they meet and vanish; without
    them it would put a transpose around every map at every edge.

    Args:
        module: Takes and returns tensors in torch's layout; a tuple or one tensor.
        keep: Inputs that are left as they are, such as the image.
    """

    def __init__(self, module: nn.Module, keep: Sequence[int] = ()) -> None:
        super().__init__()
        self.module = module
        self.keep = frozenset(keep)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the module; returns a tuple in any case."""
        inner = [
            value.permute(0, 3, 1, 2)
            if value.ndim == _MAP_RANK and index not in self.keep
            else value
            for index, value in enumerate(inputs)
        ]
        result = self.module(*inner)
        if isinstance(result, Tensor):
            result = (result,)
        return tuple(
            value.permute(0, 2, 3, 1) if value.ndim == _MAP_RANK else value for value in result
        )
