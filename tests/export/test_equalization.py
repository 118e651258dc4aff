"""Channels are evened out before int8, and float answers stay what they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp_export import Preprocess
from offramp_export._channel_ties import read_ties
from offramp_export._edges import prepare_stages, run_stages
from offramp_export._equalization import equalize
from offramp_export._fake_quantization import measure_ranges, quantized_run
from offramp_export.targets import ExecuTorch, LiteRT
from offramp_export.testing import contract_images, contract_stages, unsettle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SPREAD = 30.0


class _Network(nn.Module):
    """A stem with one channel that is larger than the others, a body, and an exit."""

    def __init__(self, body: nn.Module, channels: int = 8, grid: int = 1) -> None:
        super().__init__()
        self.preprocess = Preprocess()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.body = body
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.exit = nn.Linear(channels * grid * grid, 5)
        with torch.no_grad():
            self.stem.weight[0] *= _SPREAD

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.body(functional.relu(self.stem(self.preprocess(image))))
        return (self.exit(self.pool(x).flatten(1)),)


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.other = nn.Conv2d(8, 8, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.other(self.relu(self.norm(self.one(x))))
        y += x
        summed: Tensor = self.relu(y)
        return summed


class _Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(8, 4, 3, 1, 1)
        self.norm = nn.BatchNorm2d(12)
        self.other = nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([x, self.one(x)], 1)
        made: Tensor = self.other(functional.relu(self.norm(joined)))
        return made


class _SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.mix = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(x, 1)
        weights = torch.sigmoid(self.excite(functional.relu(self.squeeze(pooled))))
        mixed: Tensor = self.mix(x * weights)
        return mixed


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.layer(functional.relu(self.layer(x))))


class _Second(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = _Residual()
        self.exit = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.exit(self.body(x).mean((2, 3))),)


class _First(_Network):
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = functional.relu(self.stem(self.preprocess(image)))
        return self.exit(self.pool(self.body(x)).flatten(1)), x


class _Unexportable(_Network):
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if float(image.sum()) > 0:
            return super().forward(image)
        return super().forward(-image)


def _depthwise() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 16, 3, 1, 1, groups=8), nn.ReLU(), nn.Conv2d(16, 8, 1))


_STAGES: dict[str, Callable[[], tuple[nn.Module, ...]]] = {
    "residual": lambda: (_Network(_Residual()),),
    "dense": lambda: (_Network(_Dense()),),
    "squeeze_excite": lambda: (_Network(_SqueezeExcite()),),
    "grid": lambda: (_Network(nn.Identity(), grid=4),),
    "depthwise": lambda: (_Network(_depthwise()),),
    "relu6": lambda: (_Network(nn.ReLU6()),),
    "shared": lambda: (_Network(_Shared()),),
    "carry": lambda: (_First(_Residual()), _Second()),
    "contract": contract_stages,
}


def _made(name: str) -> tuple[nn.Module, ...]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = _STAGES[name]()
        for stage in stages:
            for module in stage.modules():
                if isinstance(module, nn.BatchNorm2d):
                    unsettle(module)
        _shrink_readers(name, stages[0])
    return prepare_stages(stages)


@torch.no_grad()
def _shrink_readers(name: str, stage: nn.Module) -> None:
    """What reads the large channel gives it no more weight than the others."""
    assert name == "contract" or isinstance(stage, _Network)
    if name == "grid":
        stage.get_parameter("exit.weight")[:, :16] /= _SPREAD
    elif name == "depthwise":
        stage.get_parameter("body.0.weight")[:2] /= _SPREAD
    elif name == "residual":
        stage.get_parameter("body.one.weight")[:, 0] /= _SPREAD
        stage.get_parameter("exit.weight")[:, 0] /= _SPREAD


def _changed(before: Sequence[nn.Module], after: Sequence[nn.Module]) -> set[str]:
    return {
        name
        for one, other in zip(before, after, strict=True)
        for name, value in one.state_dict().items()
        if not torch.equal(value, other.state_dict()[name])
    }


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("residual", {"stem.weight", "body.one.weight", "exit.weight"}),
        ("dense", {"stem.weight", "body.one.weight", "body.norm.running_mean"}),
        ("squeeze_excite", {"stem.weight", "body.squeeze.weight", "body.mix.weight"}),
        ("grid", {"stem.weight", "stem.bias", "exit.weight"}),
        ("depthwise", {"stem.weight", "body.0.weight"}),
        ("contract", set()),
    ],
)
def test_float_answers_stay(name: str, changed: set[str]) -> None:
    stages = _made(name)
    before = [{key: value.clone() for key, value in stage.state_dict().items()} for stage in stages]
    made = equalize(stages, contract_images(12), least_gain=0.05)
    for stage, kept in zip(stages, before, strict=True):
        assert all(torch.equal(value, kept[key]) for key, value in stage.state_dict().items())
    assert changed <= _changed(stages, made)
    _assert_alike(stages, made)


@pytest.mark.parametrize("name", ["relu6", "shared", "carry"])
def test_what_cannot_be_undone_is_left_alone(name: str) -> None:
    stages = _made(name)
    made = equalize(stages, contract_images(12))
    assert not {"stem.weight", "stem.bias", "body.layer.weight"} & _changed(stages, made)
    _assert_alike(stages, made)


def _assert_alike(stages: Sequence[nn.Module], made: Sequence[nn.Module]) -> None:
    images = torch.from_numpy(contract_images(24, 3).astype(np.float32))
    for one, other in zip(run_stages(stages, images), run_stages(made, images), strict=True):
        for value, again in zip(one, other, strict=True):
            torch.testing.assert_close(again, value, rtol=0, atol=1e-4 * float(value.abs().max()))


def test_a_shared_layer_stays_shared() -> None:
    first, second = _made("carry")
    assert isinstance(first, _First)
    assert isinstance(second, _Second)
    assert isinstance(first.body, _Residual)
    second.body = first.body
    made = equalize([first, second], contract_images(20))
    assert made[0].body is made[1].body
    assert not {name for name in _changed([first, second], made) if name.startswith("body")}
    _assert_alike([first, second], made)


def test_a_stage_that_torch_cannot_export_is_left_alone() -> None:
    stages = prepare_stages([_Unexportable(nn.Identity())])
    assert not _changed(stages, equalize(stages, contract_images(20)))


def test_channels_of_a_sum_have_one_scale() -> None:
    (stage,) = _made("residual")
    ties = read_ties(
        torch.export.export(stage, (torch.zeros(1, 16, 16, 3),)), may_change=lambda _: True
    )
    made = {layer.weight: layer.made for layer in ties.layers}
    np.testing.assert_array_equal(made["stem.weight"], made["body.other.weight"])
    assert made["stem.weight"].all()
    assert not made["exit.weight"].any()
    assert len(set(made["body.one.weight"]) | set(made["body.norm.weight"])) == 16


@pytest.mark.parametrize("name", ["residual", "dense", "grid"])
def test_rounding_moves_the_logits_less(name: str) -> None:
    stages = _made(name)
    images = contract_images(50)
    shown = torch.from_numpy(contract_images(100, 3).astype(np.float32))
    exact = run_stages(stages, shown)[0][0]
    noise = []
    for each in (stages, equalize(stages, images)):
        with torch.no_grad():
            (logits,) = quantized_run(each, measure_ranges(each, images, 50), shown)
        noise.append(float((logits - exact).std()))
    assert noise[1] < 0.8 * noise[0]


@pytest.mark.parametrize("target", [LiteRT("int8"), ExecuTorch("int8")], ids=["litert", "et"])
def test_real_programs_answer_as_the_evened_network_would(target: LiteRT | ExecuTorch) -> None:
    stages = _made("grid")
    images, shown = contract_images(40), contract_images(40, 3)
    batch = torch.from_numpy(shown.astype(np.float32))
    exact = run_stages(stages, batch)[0][0].numpy()
    with torch.no_grad():
        (plain,) = quantized_run(stages, measure_ranges(stages, images, 50), batch)
    program = target.convert(stages, [[(1, 16, 16, 3)]], images)
    real = target.run(program, shown)[0]
    assert (real - exact).std() < 0.8 * float((plain.numpy() - exact).std())
