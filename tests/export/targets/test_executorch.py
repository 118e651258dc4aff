"""What is particular to ExecuTorch: nothing may quietly fall out of XNNPACK."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor, nn

from offramp.errors import ExportError
from offramp_export._edges import prepare_stages, trace_edges
from offramp_export.targets import ExecuTorch
from offramp_export.testing import contract_stages


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


def test_portable_kernels_leave_nothing_to_xnnpack() -> None:
    stages = prepare_stages(contract_stages())
    carries = trace_edges(stages, 16, 16).carries
    for kernels, delegated in (("xnnpack", True), ("portable", False)):
        program = ExecuTorch(kernels=kernels).convert(stages, carries, None)  # type: ignore[arg-type]
        assert program.exporter["kernels"] == kernels
        (content,) = program.files.values()
        assert (b"XnnpackBackend" in content) == delegated


def test_options_are_checked() -> None:
    with pytest.raises(ExportError, match="no precision 'float16'"):
        ExecuTorch("float16")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="no kernels 'vulkan'"):
        ExecuTorch(kernels="vulkan")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="int8 in XNNPACK alone"):
        ExecuTorch("int8", "portable")
    with pytest.raises(ExportError, match="executorch/int8 was given 0 calibration images"):
        ExecuTorch("int8").convert(prepare_stages([_Volume()]), [[(1, 8, 8, 3)]], None)


def test_a_program_that_cannot_run_is_one_sentence() -> None:
    stages = prepare_stages(contract_stages()[:1])
    program = ExecuTorch().convert(stages, [[(1, 16, 16, 3)]], None)
    with pytest.raises(ExportError, match="converted stage 0 but cannot run it"):
        ExecuTorch().run(program, np.zeros((1, 8, 8, 3), np.uint8))
