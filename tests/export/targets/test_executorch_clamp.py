"""A bound behind a layer is rounded once, in static int8."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp_export import Preprocess
from offramp_export._edges import prepare_stages, run_stages, trace_edges
from offramp_export.targets import ExecuTorch
from offramp_export.targets._executorch_clamp import pass_as_relu
from offramp_export.testing import contract_images

_QUANTIZE = "quantized_decomposed.quantize_per_tensor.default"


class _Network(nn.Module):
    def __init__(self, bound: nn.Module, *, norm: bool, size: float) -> None:
        super().__init__()
        self.preprocess = Preprocess()
        self.layer = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.bound = bound
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.exit = nn.Linear(8, 5)
        with torch.no_grad():
            self.layer.weight.mul_(size)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = self.bound(self.norm(self.layer(self.preprocess(image))))
        return (self.exit(self.bound(self.second(x)).mean((2, 3))),)


def _make(bound: nn.Module, *, norm: bool = True, size: float = 1.0) -> list[nn.Module]:
    torch.manual_seed(0)
    return list(prepare_stages([_Network(bound, norm=norm, size=size)]))


def _quantizations(stages: list[nn.Module]) -> int:
    program = ExecuTorch("int8").convert(
        stages, trace_edges(stages, 16, 16).carries, contract_images(20)
    )
    (stage,) = program.delegation
    return stage.delegated[_QUANTIZE] + stage.left.get(_QUANTIZE, 0)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_as_many_roundings_as_with_a_relu(norm: bool, inplace: bool) -> None:
    bounded = _quantizations(_make(nn.ReLU6(inplace=inplace), norm=norm))
    assert bounded == _quantizations(_make(nn.ReLU(inplace=inplace), norm=norm))


@pytest.mark.parametrize("bound", [nn.ReLU6(), nn.Hardtanh(), nn.Hardtanh(-0.5, 3.0)])
def test_a_bound_that_cuts_off_nearly_all_costs_no_more_than_rounding_does(
    bound: nn.Module,
) -> None:
    # Before the bound values reach some hundreds: in their range, or in one that the next layer is
    # calibrated on without the bound, 256 steps would leave nothing of what is behind it.
    stages = _make(bound, norm=False, size=100.0)
    target, images = ExecuTorch("int8"), contract_images(20)
    program = target.convert(stages, trace_edges(stages, 16, 16).carries, images)
    found = target.run(program, images)[0]
    (expected,) = (out[0].numpy() for out in run_stages(stages, torch.from_numpy(images).float()))
    varies = expected.std(0).max()
    assert np.abs(found - expected).max() < 0.25 * varies


def test_a_bound_that_is_not_the_only_reader_is_left_alone() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            return nn.functional.relu6(x) + x

    module = torch.export.export(Both().eval(), (torch.zeros(1, 3, 8, 8),)).module()
    before = [node.target for node in module.graph.nodes]
    pass_as_relu(module)
    assert [node.target for node in module.graph.nodes] == before
