"""One network with named or returned exits becomes stages that compute the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.errors import ExportError
from offramp_export import Preprocess, export
from offramp_export._edges import trace_edges
from offramp_export.cut import cut
from offramp_export.targets import LiteRT

if TYPE_CHECKING:
    from pathlib import Path

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


class _Net(nn.Module):
    """Two blocks that write in place, a skip over the cut, and weights that two exits share."""

    def __init__(self, returns: str) -> None:
        super().__init__()
        self.returns = returns
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.more = nn.Conv2d(8, 8, 3, 1, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.heads = nn.ModuleList([nn.Linear(8, 3) for _ in range(3)])

    def _exit(self, number: int, x: Tensor) -> Tensor:
        logits: Tensor = self.heads[number](torch.flatten(self.pool(x), 1) * self.scale.exp())
        return logits

    def forward(self, x: Tensor) -> object:
        first = self.stem(x)
        a = self._exit(0, first)
        second = self.block(first)
        second += first
        second = torch.relu_(second)
        b = self._exit(1, second)
        last = torch.cat([self.more(second)[:, :4], first[:, 4:]], 1)
        c = self._exit(2, last)
        if self.returns == "tensor":
            return c
        return {"a": a, "b": b, "c": c} if self.returns == "dict" else (a, b, c)


@pytest.fixture
def images(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.integers(0, 256, (3, 12, 16, 3)).astype(np.float32))


def _net(returns: str) -> _Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _Net(returns)


@pytest.mark.parametrize(
    ("returns", "exits"),
    [("dict", ()), ("tuple", ()), ("tensor", ("heads.0", "heads.1", "heads.2"))],
)
def test_stages_compute_what_the_network_does(
    returns: str, exits: tuple[str, ...], images: Tensor
) -> None:
    network = _net(returns)
    preprocess = Preprocess(MEAN, STD)
    stages = cut(network, (12, 16), preprocess=preprocess, exits=exits)
    assert network.training
    edges = trace_edges(stages, 12, 16)
    assert edges.carries == (
        ((1, 12, 16, 3),),
        ((1, 8, 6, 8),),
        ((1, 8, 6, 8), (1, 8, 6, 8)),
    )
    expected = _net("tuple").eval()(preprocess(images))
    carry: tuple[Tensor, ...] = (images,)
    with torch.no_grad():
        for stage, logits in zip(stages, expected, strict=True):
            got, *rest = stage(*carry)
            carry = tuple(rest)
            torch.testing.assert_close(got, logits, rtol=1e-5, atol=1e-5)
    # Nothing is computed twice: the convolutions are spread over the stages.
    calls = [str(node.target) for stage in stages for node in stage.part.graph.nodes]  # type: ignore[union-attr]
    assert sum("conv2d" in call for call in calls) == 3
    assert not any("relu_" in call or "add_" in call for call in calls)


def test_a_network_in_one_piece_becomes_programs(images: Tensor, tmp_path: Path) -> None:
    stages = cut(_net("dict"), (12, 16), preprocess=Preprocess(MEAN, STD))
    pictures = np.tile(images.numpy().astype(np.uint8), (8, 1, 1, 1))
    result = export(
        stages,
        pictures[:3],
        [LiteRT(), LiteRT("int8")],
        path=tmp_path / "bundle",
        labels=("ant", "bee", "cow"),
        calibration_images=pictures,
    )
    assert result.parity[0].exits[2].difference < 1e-5
    assert len(result.bundle.manifest.stages) == 3


def test_a_plain_classifier_is_one_stage(images: Tensor) -> None:
    (stage,) = cut(_net("tensor"), (12, 16), preprocess=Preprocess(MEAN, STD))
    expected = _net("tuple").eval()(Preprocess(MEAN, STD)(images))[2]
    with torch.no_grad():
        torch.testing.assert_close(stage(images)[0], expected, rtol=1e-5, atol=1e-5)


class _Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class _Overwrites(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        view = y[:, :, 1:]
        z = y.mul_(3)
        return view.mean((2, 3)), z.amax((2, 3))


class _Backwards(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = x.mean((2, 3))
        return torch.relu(first), first


@pytest.mark.parametrize(
    ("network", "exits", "message"),
    [
        (_Branches(), (), "torch.export refused _Branches"),
        (_Overwrites(), (), "aten::mul_ .* writes into a tensor that is read again"),
        (_Backwards(), (), "exit 1 needs nothing that exit 0 did not compute"),
        (_Net("tuple"), ("head",), "has no submodule 'head' to be an exit; expected one of stem"),
        (_Net("tuple"), ("pool",), "the exit 'pool' is called 3 times, expected once"),
    ],
)
def test_what_cannot_be_cut_is_said(
    network: nn.Module, exits: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        cut(network, (8, 8), preprocess=Preprocess(MEAN, STD), exits=exits)
