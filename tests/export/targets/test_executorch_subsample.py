"""Slices that would cut XNNPACK's graph in two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp_export import Preprocess
from offramp_export._edges import prepare_stages, run_stages, trace_edges
from offramp_export.targets import ExecuTorch
from offramp_export.targets._executorch_subsample import subsample_by_convolution
from offramp_export.testing import contract_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp_export.targets import ConvertedProgram

Precision = Literal["float32", "int8"]


class _First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.preprocess = Preprocess()
        self.layer = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.exit = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = functional.relu(self.layer(self.preprocess(image)))
        return self.exit(self.pool(x).flatten(1)), x


class _Shortcut(nn.Module):
    """The shortcut of a CIFAR ResNet, which leaves pixels out and adds empty channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 16, 3, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.exit = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        short = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return (self.exit(self.pool(functional.relu(self.layer(x) + short)).flatten(1)),)


class _Normalized(nn.Module):
    """Begins with a group normalisation, which XNNPACK does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 8)
        self.layer = nn.Conv2d(8, 5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.layer(self.norm(x)).amax((2, 3)),)


def _convert(
    last: nn.Module, precision: Precision
) -> tuple[ConvertedProgram, Sequence[nn.Module], ExecuTorch]:
    torch.manual_seed(0)
    stages = prepare_stages([_First(), last])
    target = ExecuTorch(precision)
    return (
        target.convert(stages, trace_edges(stages, 16, 16).carries, contract_images(60)),
        stages,
        target,
    )


def _largest_difference(
    program: ConvertedProgram, stages: Sequence[nn.Module], target: ExecuTorch
) -> float:
    images = contract_images(8, seed=3)
    expected = run_stages(stages, torch.from_numpy(images.astype(np.float32)))[-1][0].numpy()
    got = target.run(program, images)[-1]
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_shortcut_that_leaves_pixels_out_cuts_nothing_in_two(precision: Precision) -> None:
    program, stages, target = _convert(_Shortcut(), precision)
    assert [found.left for found in program.delegation] == [{}, {}]
    assert program.stages[1].inputs[0].shape == (1, 16, 16, 8)
    difference = _largest_difference(program, stages, target)
    assert difference <= (1e-5 if precision == "float32" else 0.05)


class _Sliced(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (
            x[:, :, ::2, ::3],
            x[:, :, ::2],
            x[..., ::4],
            x[:, :, 1::2, ::2],
            x[:, ::2],
            x[:, :, :6:2],
            x[..., 1:],
        )


def test_only_slices_that_begin_at_the_first_position_are_replaced() -> None:
    x = torch.randn(1, 4, 8, 9, generator=torch.Generator().manual_seed(0))
    module = torch.export.export(_Sliced(), (x,)).module(check_guards=False)
    expected = module(x)
    assert subsample_by_convolution(module)
    kinds = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    # Of the fourth the columns alone are: its rows begin at the second.
    assert kinds.count("aten.conv2d.default") == 4
    assert kinds.count("aten.slice.Tensor") == 4
    for got, value in zip(module(x), expected, strict=True):
        torch.testing.assert_close(got, value, rtol=0, atol=0)
    assert not subsample_by_convolution(
        torch.export.export(_Normalized().eval(), (torch.zeros(1, 8, 8, 8),)).module()
    )
