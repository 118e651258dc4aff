"""One network with named or returned exits becomes stages that compute the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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


class _Shapes(nn.Module):
    """Writes its sizes out, as ``torch.export`` leaves them in a graph of one image."""

    def __init__(self, *, mixes: bool) -> None:
        super().__init__()
        self.mixes = mixes
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(12, 8, 3, 2, 1)
        self.scale = nn.Parameter(torch.rand(8))
        self.exits = nn.ModuleList([nn.Linear(8 * 6 * 8, 3), nn.Linear(8, 3)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n = x.shape[0]
        x = self.first(x) * self.scale.view(1, -1, 1, 1)
        x = x.view(n, 2, 4, 6, 8).transpose(1, 2).reshape(n, 8, 6, 8)
        if self.mixes:
            x = x - x.mean((0, 2), keepdim=True)
        early = self.exits[0](x.view(n, -1))
        x = self.second(torch.cat([x, torch.zeros(n, 4, 6, 8)], 1))
        return early, self.exits[1](x.mean((2, 3)).view(x.size(0), -1))


@pytest.mark.parametrize("mixes", [False, True])
def test_a_batch_is_computed_at_once_where_its_images_do_not_mix(
    mixes: bool, images: Tensor
) -> None:
    torch.manual_seed(0)
    network = _Shapes(mixes=mixes).eval()
    preprocess = Preprocess(MEAN, STD)
    stages = cut(network, (12, 16), preprocess=preprocess)
    shapes: list[int] = []
    carry: tuple[Tensor, ...] = (images,)
    alone = [network(preprocess(image[None])) for image in images]
    for index, stage in enumerate(stages):
        with torch.no_grad(), _Convolved() as convolved:
            got, *rest = stage(*carry)
        carry = tuple(rest)
        shapes += convolved.batches
        expected = torch.cat([exits[index] for exits in alone])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert shapes == ([1, 1, 1, 3] if mixes else [3, 3])


class _Convolved(TorchFunctionMode):
    """Notes how many images each convolution is given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "conv2d" in getattr(func, "__name__", ""):
            self.batches.append(args[0].shape[0])
        return func(*args, **(kwargs or {}))


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
        (_Branches(), (), "torch.export refused _Branches at .*__bool__ in forward itself: "),
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
