from __future__ import annotations

import pytest
import torch
from torch import Tensor

from offramp_search.spaces import _modules as modules


@pytest.mark.parametrize(
    "module",
    [
        modules.Concatenate(),
        modules.Select([(1, 2)]),
        modules.Select([(3, 1), (0, 2)]),
        modules.SpatialSlice((0, 5, 2), (1, 4, 1)),
        modules.Pad((1, 0, 2, 3, 4, 5), 0.5),
    ],
    ids=lambda module: type(module).__name__,
)
def test_both_layouts_do_the_same(
    module: modules.Concatenate | modules.Select | modules.SpatialSlice | modules.Pad,
) -> None:
    tensors: list[Tensor] = [torch.rand(2, 4, 5, 6) for _ in range(2)]
    if not isinstance(module, modules.Concatenate):
        tensors = tensors[:1]
    expected = module(*tensors)
    last = module.channel_last(*(x.permute(0, 2, 3, 1) for x in tensors))
    assert torch.equal(last.permute(0, 3, 1, 2), expected)


def test_scalars() -> None:
    assert modules.Scalar(2.0, 1.0)(torch.tensor(3.0)) == 7
    assert modules.Scalar(1.0, 0.0)(torch.tensor(3.0)) == 3
