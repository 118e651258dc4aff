"""What is particular to ExecuTorch: nothing may quietly fall out of XNNPACK."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.errors import ExportError
from offramp_export._edges import prepare_stages, run_stages, trace_edges
from offramp_export.targets import ExecuTorch
from offramp_export.testing import contract_images, contract_stages


class _Volume(nn.Module):
    """XNNPACK has no three-dimensional convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 3)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.layer(image.unsqueeze(1)).amax((2, 3, 4)),)


def test_a_convolution_outside_xnnpack_is_refused() -> None:
    with pytest.raises(ExportError, match="XNNPACK left 1 of the convolutions of stage 0"):
        ExecuTorch().convert(prepare_stages([_Volume()]), [[(1, 8, 8, 3)]], None)


def test_portable_kernels_leave_nothing_to_xnnpack() -> None:
    stages = prepare_stages(contract_stages())
    carries = trace_edges(stages, 16, 16).carries
    for kernels, delegated in (("xnnpack", True), ("portable", False)):
        program = ExecuTorch(kernels=kernels).convert(stages, carries, None)  # type: ignore[arg-type]
        assert program.exporter["kernels"] == kernels
        (content,) = program.files.values()
        assert (b"XnnpackBackend" in content) == delegated
        assert len(program.delegation) == len(stages)
        for stage, found in enumerate(program.delegation):
            convolutions = found.delegated.get("aten.convolution.default", 0)
            assert (convolutions > 0) == delegated
            assert (found.left.get("aten.convolution.default", 0) > 0) != delegated
            assert (found.share > 0.9) if delegated else (found.share == 0)
            told = f"{sum(found.delegated.values())} operators, {sum(found.left.values())} left"
            assert program.exporter[f"delegated_stage_{stage}"] == told


class _Grid(nn.Module):
    """An exit that reads averages over a grid."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.exit = nn.Linear(4 * grid[0] * grid[1], 5)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.exit(self.pool(self.layer(image.permute(0, 3, 1, 2))).flatten(1)),)


@pytest.mark.parametrize(
    ("grid", "precision", "left"),
    [((4, 2), "float32", False), ((4, 2), "int8", False), ((3, 2), "float32", True)],
)
def test_averages_over_a_grid_are_delegated_where_it_divides_the_map(
    grid: tuple[int, int], precision: Literal["float32", "int8"], left: bool
) -> None:
    torch.manual_seed(0)
    stages = prepare_stages([_Grid(grid)])
    target = ExecuTorch(precision)
    program = target.convert(stages, [[(1, 16, 16, 3)]], contract_images(40))
    (found,) = program.delegation
    assert any("adaptive" in name for name in found.left) == left
    images = contract_images(8, seed=3)
    (expected,) = (
        outputs[0].numpy()
        for outputs in run_stages(stages, torch.from_numpy(images.astype(np.float32)))
    )
    got = target.run(program, images)[0]
    scale = np.abs(expected).max()
    assert np.abs(got - expected).max() <= scale * (1e-4 if precision == "float32" else 5e-2)


class _Grouped(nn.Module):
    """A group normalisation, which XNNPACK does not take, after a convolution, which it does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.norm(self.layer(image.permute(0, 3, 1, 2))).amax((2, 3)),)


def test_less_than_the_stated_share_is_refused() -> None:
    stages = prepare_stages([_Grouped()])
    program = ExecuTorch().convert(stages, [[(1, 8, 8, 3)]], None)
    (found,) = program.delegation
    assert 0 < found.share < 1
    assert any("group_norm" in name for name in found.left)
    with pytest.raises(ExportError, match=r"of the operators of stage 0, expected at least 100%"):
        ExecuTorch(delegated_share=1.0).convert(stages, [[(1, 8, 8, 3)]], None)


def test_options_are_checked() -> None:
    with pytest.raises(ExportError, match="no precision 'float16'"):
        ExecuTorch("float16")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="no kernels 'vulkan'"):
        ExecuTorch(kernels="vulkan")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"delegated_share is 1\.5"):
        ExecuTorch(delegated_share=1.5)
    with pytest.raises(ExportError, match="portable kernels delegate nothing"):
        ExecuTorch(kernels="portable", delegated_share=0.5)
    with pytest.raises(ExportError, match="int8 in XNNPACK alone"):
        ExecuTorch("int8", "portable")
    with pytest.raises(ExportError, match="executorch/int8 was given 0 calibration images"):
        ExecuTorch("int8").convert(prepare_stages([_Volume()]), [[(1, 8, 8, 3)]], None)


def test_a_program_that_cannot_run_is_one_sentence() -> None:
    stages = prepare_stages(contract_stages()[:1])
    program = ExecuTorch().convert(stages, [[(1, 16, 16, 3)]], None)
    with pytest.raises(ExportError, match="converted stage 0 but cannot run it"):
        ExecuTorch().run(program, np.zeros((1, 8, 8, 3), np.uint8))
