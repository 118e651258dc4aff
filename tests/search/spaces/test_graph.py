from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp.errors import ShapeError, UnsupportedOperatorError
from offramp_export.network import Preprocess
from offramp_search.spaces import StaticTransform


def space(base: nn.Module, stages: int = 1) -> StaticTransform:
    return StaticTransform(
        base, image_shape=(8, 8), preprocess=Preprocess(), num_stages=stages, groups=4
    )


class Tail(nn.Module):
    """Something in the middle of a small network."""

    def __init__(self, middle: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = middle
        self.linear = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.stem(x))
        return cast("Tensor", self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1)))


class Rolled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.ReLU(), Roll())

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.inner(x))


class Roll(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(x, 1, 2)


class Function(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return {
            "constant": lambda: x * self.weight,
            "images": lambda: x[:1],
            "spatial_gate": lambda: x * x.mean(1, keepdim=True),
            "sum_rows": lambda: x.sum(2, keepdim=True),
            "difference": lambda: x - functional.relu(x),
            "reflect": lambda: functional.pad(x, (1, 1, 1, 1), "reflect"),
            "zeros": lambda: functional.relu(functional.pad(x, (0, 0, 0, 0, 1, 1))),
            "odd_pool": lambda: functional.adaptive_avg_pool2d(x, 3),
        }[self.name]()


def test_unsupported_operators_are_named_with_their_place() -> None:
    with pytest.raises(
        UnsupportedOperatorError, match=r"aten\.roll\.default.*middle\.inner\.1"
    ) as e:
        space(Tail(Rolled()))
    assert e.value.operator == "aten.roll.default"
    assert e.value.module_path == "middle.inner.1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("constant", "does not depend on the image"),
        ("spatial_gate", "rows and columns together"),
        ("sum_rows", r"aten\.sum"),
        ("difference", "plain sums and products"),
        ("reflect", "only constant padding"),
        ("zeros", "may only be added"),
        ("odd_pool", "no equal windows for 3×3"),
    ],
)
def test_what_an_operator_cannot_do_is_said(name: str, message: str) -> None:
    channels = 10 if name == "zeros" else 8
    with pytest.raises(UnsupportedOperatorError, match=message) as caught:
        space(Tail(Function(name), channels))
    assert caught.value.module_path == "middle"


def test_the_base_must_give_logits() -> None:
    with pytest.raises(ShapeError, match="must return"):
        space(nn.Conv2d(3, 4, 1))
    with pytest.raises(UnsupportedOperatorError, match="end it in a linear layer"):
        space(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU()))


def test_the_base_is_left_in_its_mode() -> None:
    base = Tail(nn.Dropout()).train()
    space(base)
    assert base.training


class Twice(nn.Module):
    """Uses one block twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.block(self.block(x)))


class Sliced(nn.Module):
    """An option-A shortcut: every other pixel, and channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        short = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return cast("Tensor", self.last(self.conv(x) + short))


class Gated(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = (
            nn.Conv2d(8, 16, 3, padding=1),
            nn.Conv2d(16, 4, 1),
            nn.Conv2d(4, 16, 1),
        )
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = self.squeeze(functional.adaptive_avg_pool2d(x, 1)).relu()
        return cast("Tensor", self.last(x * self.excite(gate).sigmoid()))


def test_the_gate_of_squeeze_and_excitation_is_tied_to_what_it_gates() -> None:
    assert "middle.excite" not in space(Tail(Gated()), stages=2).decisions()


@torch.no_grad()
@pytest.mark.parametrize(
    "middle",
    [
        Twice(),
        Sliced(),
        Gated(),
        nn.Hardtanh(0, 6),
        nn.Sequential(nn.GELU("tanh"), nn.AvgPool2d(3, 2, 1), nn.LeakyReLU(0.2)),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding="same", dilation=2), nn.Sigmoid()),
        nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.ZeroPad2d(1), nn.SiLU(inplace=True)),
        nn.Sequential(nn.Flatten(1), nn.Unflatten(1, (512, 1, 1)), nn.Conv2d(512, 8, 1)),
        nn.Sequential(nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 3, padding=1, groups=4), nn.Tanh()),
        nn.Sequential(nn.Conv2d(8, 16, 3, groups=8), nn.ReLU(), nn.Conv2d(16, 8, 1, bias=False)),
    ],
    ids=lambda middle: str(middle).replace("\n", "")[:40],
)
def test_operators_keep_their_meaning(middle: nn.Module) -> None:
    base = Tail(middle).eval()
    image = torch.rand(2, 8, 8, 3) * 255
    whole = space(base)
    network = whole.build(whole.static_architecture())
    torch.testing.assert_close(network(image)[0], base(Preprocess()(image)), rtol=1e-5, atol=1e-5)
    halves = space(base, stages=2)
    architecture = halves.width_architecture([0.5])
    masked = halves.masked().eval()
    masked.select(architecture)
    for ours, theirs in zip(halves.build(architecture)(image), masked(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


class InPlace(nn.Module):
    """Reads a tensor again after it was changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.conv = nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.conv(self.relu(x)) + x)


@torch.no_grad()
def test_what_is_changed_in_place_is_changed_for_all() -> None:
    base = Tail(InPlace()).eval()
    image = torch.rand(2, 8, 8, 3) * 255
    whole = space(base)
    network = whole.build(whole.static_architecture())
    torch.testing.assert_close(network(image)[0], base(Preprocess()(image)), rtol=1e-5, atol=1e-5)
