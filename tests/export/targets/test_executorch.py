"""What is particular to ExecuTorch: nothing may quietly fall out of XNNPACK."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.errors import ExportError
from offramp_export._edges import prepare_stages
from offramp_export.targets import ExecuTorch


class _Volume(nn.Module):
    """XNNPACK has no three-dimensional convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 3)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.layer(image.unsqueeze(1)).amax((2, 3, 4)),)


def test_a_convolution_outside_xnnpack_is_refused() -> None:
    with pytest.raises(ExportError, match=r"XNNPACK took \d parts of stage 0 and left 1"):
        ExecuTorch().convert(prepare_stages([_Volume()]), [[(1, 8, 8, 3)]], None)


def test_portable_kernels_take_what_xnnpack_does_not() -> None:
    stages = prepare_stages([_Volume()])
    target = ExecuTorch(kernels="portable")
    program = target.convert(stages, [[(1, 8, 8, 3)]], None)
    assert program.exporter["kernels"] == "portable"
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    expected = stages[0](torch.from_numpy(images.astype(np.float32)))[0].numpy()
    np.testing.assert_allclose(target.run(program, images)[0], expected, rtol=1e-4)


def test_options_are_checked() -> None:
    with pytest.raises(ExportError, match="no kernels 'vulkan'"):
        ExecuTorch(kernels="vulkan")  # type: ignore[arg-type]
