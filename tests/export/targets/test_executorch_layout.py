"""Maps that cross channel-last, and transposes that nobody needs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp_export import Preprocess
from offramp_export._edges import prepare_stages, run_stages, trace_edges
from offramp_export._quiet import quiet
from offramp_export._require import require
from offramp_export.targets import ExecuTorch, _executorch
from offramp_export.targets._executorch_footprint import _decompile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp_export.targets import ConvertedProgram

Precision = Literal["float32", "int8"]
SIZE = (12, 20)  # rows and columns that cannot be mistaken for one another


class _Start(nn.Module):
    """Hands on a map that it also computes with, one that it does not, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocess = Preprocess()
        self.layer = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 12, 3, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.exit = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = functional.relu(self.layer(self.preprocess(image)))
        mean = self.pool(x).flatten(1)
        return self.exit(mean), x, functional.relu(self.wide(x)), mean


class _Middle(nn.Module):
    """Joins a map with channels of its own, and hands on what else it is given, all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 4, 3, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.exit = nn.Linear(24, 5)

    def forward(self, x: Tensor, wide: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        joined = torch.cat([functional.relu(self.layer(x)), wide], 1)
        logits = self.exit(torch.cat([self.pool(joined).flatten(1), mean], 1))
        return logits, joined, wide, mean[:], wide[:, :12]


class _End(nn.Module):
    """Convolves both maps, and reads the vector."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(16, 6, 3, padding=1)
        self.other = nn.Conv2d(12, 6, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.exit = nn.Linear(14, 5)

    def forward(self, joined: Tensor, wide: Tensor, mean: Tensor, again: Tensor) -> tuple[Tensor]:
        x = functional.relu(self.one(joined)) + functional.relu(self.other(wide * again))
        return (self.exit(torch.cat([self.pool(x).flatten(1), mean], 1)),)


class _Chain(nn.Module):
    """One map crosses, and convolutions read it."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.preprocess = Preprocess() if first else nn.Identity()
        self.layer = nn.Conv2d(3 if first else 8, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.exit = nn.Linear(8, 5)
        self.is_last = not first

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        x = functional.relu(self.layer(self.preprocess(given)))
        logits = self.exit(self.pool(x).flatten(1))
        return (logits,) if self.is_last else (logits, x)


class _Outside(nn.Module):
    """Begins and ends with what XNNPACK does not take, so its maps stay in torch's order."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 8)
        self.layer = nn.Conv2d(8, 6, 3)
        self.after = nn.GroupNorm(3, 6)
        self.exit = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.after(functional.relu(self.layer(self.norm(x))))
        return self.exit(x.mean((2, 3))), x


class _Thin(nn.Module):
    """Hands on a map of one channel and one of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 1, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.exit = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mean = self.pool(x)
        return self.exit(mean.flatten(1)), functional.relu(self.layer(x)), functional.relu(mean)


class _AfterThin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 5, 3)
        self.other = nn.Conv2d(8, 5, 1)

    def forward(self, map_: Tensor, mean: Tensor) -> tuple[Tensor]:
        return ((functional.relu(self.one(map_)) + self.other(mean)).mean((2, 3)),)


class _AfterOutside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.layer(x).amax((2, 3)),)


def _stages(*kinds: nn.Module) -> Sequence[nn.Module]:
    return prepare_stages(kinds)


def _images() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (24, *SIZE, 3), dtype=np.uint8)


def _convert(stages: Sequence[nn.Module], target: ExecuTorch) -> ConvertedProgram:
    return target.convert(stages, trace_edges(stages, *SIZE).carries, _images())


def _assert_as_torch(
    program: ConvertedProgram,
    stages: Sequence[nn.Module],
    target: ExecuTorch,
    tolerance: float = 1e-4,
) -> None:
    expected = run_stages(stages, torch.from_numpy(_images().astype(np.float32)))
    for found, (logits, *_) in zip(target.run(program, _images()), expected, strict=True):
        largest = float(logits.abs().max())
        np.testing.assert_allclose(found, logits.numpy(), rtol=0, atol=tolerance * largest)


def _operators(program: ConvertedProgram) -> list[list[str]]:
    """Per method, the operators of XNNPACK's graphs."""
    (content,) = program.files.values()
    with quiet():
        file = require("executorch.exir._serialize._program").deserialize_pte_binary(content)
        return [
            [
                node["xnode_union_type"]
                for delegate in plan.delegates
                for node in _decompile(
                    bytes(file.program.backend_delegate_data[delegate.processed.index].data)
                )["xnodes"]
            ]
            for plan in file.program.execution_plan
        ]


@pytest.mark.parametrize("kernels", ["xnnpack", "portable"])
def test_maps_cross_channel_last(kernels: Literal["xnnpack", "portable"]) -> None:
    torch.manual_seed(3)
    stages = _stages(_Start(), _Middle(), _End())
    target = ExecuTorch(kernels=kernels)
    program = _convert(stages, target)
    shapes = [[entry.shape for entry in stage.inputs] for stage in program.stages]
    assert shapes == [
        [(1, 12, 20, 3)],
        [(1, 12, 20, 8), (1, 6, 10, 12), (1, 8)],
        [(1, 6, 10, 16), (1, 6, 10, 12), (1, 8), (1, 6, 10, 12)],
    ]
    _assert_as_torch(program, stages, target)


def test_what_xnnpack_leaves_at_a_cut_reads_and_makes_the_same_maps() -> None:
    torch.manual_seed(3)
    stages = _stages(_Chain(first=True), _Outside(), _AfterOutside())
    program = _convert(stages, ExecuTorch())
    assert program.delegation[1].left["aten.native_group_norm.default"] == 2
    _assert_as_torch(program, stages, ExecuTorch())


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_map_that_is_the_same_in_both_orders_has_its_shape(precision: Precision) -> None:
    torch.manual_seed(3)
    stages = _stages(_Chain(first=True), _Thin(), _AfterThin())
    target = ExecuTorch(precision)
    program = _convert(stages, target)
    shapes = [entry.shape for entry in program.stages[2].inputs]
    assert shapes == [(1, 12, 20, 1), (1, 1, 1, 8)]
    _assert_as_torch(program, stages, target, 1e-4 if precision == "float32" else 0.1)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_cut_between_convolutions_transposes_nothing(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    stages = _stages(_Chain(first=True), _Chain(first=False))
    target = ExecuTorch(precision)
    program = _convert(stages, target)
    first, last = (operators.count("XNNStaticTranspose") for operators in _operators(program))
    # Each exit flattens its averages. A normalisation is cheaper in rows; in int8 the first
    # convolution does it.
    assert (first, last) == ((3, 1) if precision == "float32" else (1, 1))

    monkeypatch.setattr(_executorch, "without_transposes", nullcontext)
    plain = _convert(stages, target)
    both = [operators.count("XNNStaticTranspose") for operators in _operators(plain)]
    # If these are less, XNNPACK's lowering drops them itself and ours is not needed any more.
    assert both[0] >= first + 4
    assert both[1] >= last + 2
    np.testing.assert_array_equal(target.run(program, _images()), target.run(plain, _images()))


def test_int8_answers_alike_with_and_without_transposes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    stages = _stages(_Start(), _Middle(), _End())
    target = ExecuTorch("int8")
    found = target.run(_convert(stages, target), _images())
    monkeypatch.setattr(_executorch, "without_transposes", nullcontext)
    np.testing.assert_array_equal(found, target.run(_convert(stages, target), _images()))
