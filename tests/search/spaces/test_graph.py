from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp.errors import ShapeError, UnsupportedOperatorError
from offramp_export.network import Preprocess
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from collections.abc import Callable


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


class To(nn.Module):
    """Features as a map of one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1, 1, 1)


class Twice(nn.Module):
    """Uses one block twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.block(self.block(x)))


class Shuffled(nn.Module):
    """A shuffle between two convolutions, and halves that go different ways; in many spellings."""

    def __init__(self, spelling: str, groups: int = 2) -> None:
        super().__init__()
        self.spelling, self.groups = spelling, groups
        self.first, self.taken = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.module = nn.ChannelShuffle(groups)
        self.apart = nn.Unflatten(1, (groups, 8 // groups))

    def forward(self, x: Tensor) -> Tensor:
        passing, taken = self.shuffle(self.first(x)).chunk(2, 1)
        return self.shuffle(torch.cat([passing, self.taken(taken)], 1))

    def shuffle(self, x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        each = channels // self.groups
        grouped = x.view(images, self.groups, each, height, width)
        spellings: dict[str, Callable[[], Tensor]] = {
            "transpose": lambda: grouped.transpose(1, 2).contiguous().view(x.shape),
            "permute": lambda: grouped.permute(0, 2, 1, 3, 4).reshape(x.shape),
            "flatten": lambda: self.apart(x).transpose(2, 1).flatten(1, 2),
            "module": lambda: cast("Tensor", self.module(x)),
            "there_and_back": lambda: grouped.flatten(1, 2),
        }
        return spellings[self.spelling]()

    def extra_repr(self) -> str:
        return f"{self.spelling} {self.groups}"


class Mixed(nn.Module):
    """Brings channels into groups and does something else with them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.view(x.size(0), 2, 4, 8, 8)
        return {
            "sum": lambda: grouped.sum(1),
            "rows": lambda: grouped.transpose(2, 3).reshape(x.shape),
            "relu": lambda: functional.relu(grouped).view(x.shape),
        }[self.how]()


@pytest.mark.parametrize("how", ["sum", "rows", "relu"])
def test_channels_in_groups_can_only_be_transposed(how: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match="transposed and joined again") as caught:
        space(Tail(Mixed(how), 4 if how == "sum" else 8))
    assert caught.value.module_path == "middle"


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
        *map(Shuffled, ("transpose", "permute", "flatten", "module", "there_and_back")),
        *(Shuffled("transpose", 4), Shuffled("module", 4)),
        nn.Sequential(nn.Conv2d(8, 8, 1, groups=2), nn.ChannelShuffle(2), nn.Conv2d(8, 8, 1)),
        nn.Sequential(nn.ChannelShuffle(4), nn.Conv2d(8, 8, 1, groups=2), nn.ChannelShuffle(4)),
        nn.Sequential(nn.AvgPool2d(4), nn.ChannelShuffle(2), nn.Flatten(1), nn.Linear(32, 8), To()),
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


@torch.no_grad()
def test_a_block_that_is_used_twice_is_cut_at_each_place_on_its_own() -> None:
    base = Tail(Twice()).eval()
    image = torch.rand(2, 8, 8, 3) * 255
    made = space(base, stages=2)
    assert list(made.decisions()) == ["stem", "middle.block.0", "middle_block_0_2"]
    architecture = {"stem": "2+2", "middle.block.0": "1+3", "middle_block_0_2": "3+1"}
    network, masked = made.build(architecture), made.masked().eval()
    masked.select(architecture)
    first, second = network.stages
    before = network(image)
    for ours, theirs in zip(before, masked(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for parameter in second.parameters():
        parameter.add_(1.0)
    after = network(image)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    # Each place has weights of its own from here on, which begin as the base's.
    kernels = [m.weight for m in first.modules() if isinstance(m, nn.Conv2d)]
    assert [tuple(kernel.shape[:2]) for kernel in kernels] == [(4, 3), (2, 4), (6, 2)]
    shared = base.middle.block[0].weight  # type: ignore[union-attr, index]
    torch.testing.assert_close(kernels[1], shared[:2, :4])
    torch.testing.assert_close(kernels[2], shared[:6, :2])


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
