"""Letting a graph that was read with one image take many at a time.

``torch.export`` writes the shapes of one image into a graph. Where a size begins with that one, it
is made to begin with the number of images instead; whether that was all is found by trying.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, fx, nn

__all__ = ["free_batch", "takes_batches"]

_ATEN = torch.ops.aten
_RESIZED = (_ATEN.view.default, _ATEN.reshape.default, _ATEN.expand.default)
_MADE = (_ATEN.zeros.default, _ATEN.ones.default, _ATEN.full.default)
_CLOSE = 1e-4  # of the largest value; a batch is summed up in another order


def free_batch(graph: fx.Graph) -> None:
    """Make sizes that begin with one image begin with as many as the first input has.

    Args:
        graph: Read with one image; changed in place.
    """
    inputs = graph.find_nodes(op="placeholder")
    with graph.inserting_after(inputs[-1]):
        images = graph.call_function(_ATEN.sym_size.int, (inputs[0], 0))
    from_image = set(inputs)
    for node in graph.nodes:
        if not from_image.isdisjoint(node.all_input_nodes):
            from_image.add(node)
        if node.target in _RESIZED and node in from_image:
            place = 1
        elif node.target in _MADE:
            place = 0
        else:
            continue
        size = node.args[place]
        # One number alone is more likely to be a scalar than an image.
        if len(size) > 1 and size[0] == 1:
            node.update_arg(place, [images, *size[1:]])
    graph.eliminate_dead_code()


def takes_batches(stage: nn.Module, carry: Sequence[Tensor]) -> bool:
    """Whether a stage gives each image of a batch what it gives that image alone.

    Args:
        stage: In evaluation mode; takes and returns tuples of tensors.
        carry: What it reads, of several images that differ.
    """
    with torch.no_grad():
        singles = [
            stage(*(value[place : place + 1] for value in carry))
            for place in range(carry[0].shape[0])
        ]
        wanted = [torch.cat(values) for values in zip(*singles, strict=True)]
        try:
            got = stage(*carry)
        except RuntimeError:
            return False
    return all(
        one.shape == other.shape and bool((one - other).abs().max() <= _CLOSE * other.abs().max())
        for one, other in zip(got, wanted, strict=True)
    )
