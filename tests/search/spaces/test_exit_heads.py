from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from offramp_export.network import Preprocess
from offramp_search.spaces import StaticTransform
from offramp_search.spaces.static_transform._exits import reduction, share_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp_search.spaces import Architecture

CHANNELS = 9


def _two_on_one_map(space: StaticTransform) -> Architecture:
    """The first two of three stages are thin and end at the second layer of ``vgg_small``."""
    cuts = ("4+4+0", "4+4+0", "0+0+8", "0+0+8")
    return dict(zip(space.decisions(), cuts, strict=True))


@pytest.fixture
def space(make_space: Callable[..., StaticTransform]) -> StaticTransform:
    return make_space(f"vgg_small/4:{CHANNELS}", 3)


def _convolution(stage: nn.Module) -> nn.Conv2d:
    found = [m for name, m in stage.named_children() if name.endswith("_exit_conv")]
    assert len(found) == 1
    assert isinstance(found[0], nn.Conv2d)
    return found[0]


@torch.no_grad()
def test_stages_on_one_map_share_its_head_out(space: StaticTransform) -> None:
    architecture = _two_on_one_map(space)
    first, second, last = space.build(architecture).stages
    one, two = _convolution(first), _convolution(second)
    # Four channels of nine, then five; the second reads the whole map, the first its own half.
    assert (one.out_channels, two.out_channels) == (4, 5)
    assert two.in_channels == 2 * one.in_channels
    # And its classifier reads the first one's share as well: four by four averages of each.
    exits = [stage.get_submodule("exit") for stage in (first, second, last)]
    assert [exit.in_features for exit in exits[:2]] == [16 * 4, 16 * CHANNELS]
    assert not any("_exit_" in name for name, _ in last.named_children())


@torch.no_grad()
def test_an_earlier_share_does_not_see_later_channels(space: StaticTransform) -> None:
    images = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0)) * 255
    masked = space.masked().eval()
    masked.select(_two_on_one_map(space))
    before = masked(images)
    for index, node in enumerate(masked._graph.nodes):
        if node.name == "features_4":  # whose second half stage 1 computes
            layer = masked.layer(index)
            layer.weight[layer.weight.shape[0] // 2 :] += 1.0  # type: ignore[index, operator]
    after = masked(images)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


@torch.no_grad()
def test_a_sure_mixture_of_heads_is_one_of_them(make_space: Callable[..., StaticTransform]) -> None:
    space = make_space("vgg_small/4:8", 3)
    images = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0)) * 255
    thin = dict.fromkeys(space.decisions(), "4+2+2")
    for architecture in (_two_on_one_map(space), space.depth_architecture([0.3, 0.6]), thin):
        masked, relaxed = space.masked().eval(), space.relaxed().eval()
        masked.select(architecture)
        relaxed.relax(
            {
                name: torch.tensor([float(choice == architecture[name]) for choice in kind.choices])  # type: ignore[attr-defined]
                for name, kind in space.decisions().items()
            }
        )
        for mixture, (place, read) in zip(
            relaxed.exit_mixtures(images, maps=False),
            masked.exit_reads(images, maps=False),
            strict=True,
        ):
            assert {name for name, share, _ in mixture if share > 0} == {place}
            mixed = next(part for name, _, part in mixture if name == place)
            assert torch.allclose(mixed, read, atol=1e-5)


def test_every_cut_moves_the_heads_of_a_mixture(make_space: Callable[..., StaticTransform]) -> None:
    space = make_space("vgg_small/4:8", 3)
    relaxed = space.relaxed().eval()
    logits = {
        name: torch.zeros(len(kind.choices), requires_grad=True)  # type: ignore[attr-defined]
        for name, kind in space.decisions().items()
    }
    relaxed.relax({name: part.softmax(0) for name, part in logits.items()})
    images = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0)) * 255
    reads = [
        share * read.square().mean()
        for mixture in relaxed.exit_mixtures(images, maps=False)[:2]
        for _, share, read in mixture
    ]
    torch.stack(reads).sum().backward()  # type: ignore[no-untyped-call]
    for part in logits.values():
        assert part.grad is not None
        assert torch.isfinite(part.grad).all()
        assert part.grad.abs().max() > 0


def test_heads_are_no_decisions(
    make_space: Callable[..., StaticTransform],
) -> None:
    for name in ("resnet20", "resnet20/2@4", "shufflenet"):
        plain, headed = make_space(name, 3), make_space(f"{name}:8", 3)
        assert plain.decisions() == headed.decisions()
        assert plain.landmarks() == headed.landmarks()
        for architecture in plain.landmarks():
            assert headed.refusal(architecture) == plain.refusal(architecture)
            # The last stage has the base's own exit.
            assert plain.cost(architecture)[-1] == headed.cost(architecture)[-1]


def test_without_channels_there_are_no_heads(make_base: Callable[[str], nn.Module]) -> None:
    base = make_base("resnet20")

    make = partial(
        StaticTransform, base, image_shape=(16, 16), preprocess=Preprocess(), num_stages=3
    )
    default, none, some = make(), make(exit_head_channels=0), make(exit_head_channels=4)
    for architecture in default.landmarks():
        assert default.blocks(architecture) == none.blocks(architecture)
    names = [set(one.masked().state_dict()) for one in (default, none, some)]
    assert names[0] == names[1] < names[2]
    assert not any("_exit_conv" in name for name in names[0])


def test_a_head_costs_little_of_what_lies_before_it(
    make_space: Callable[..., StaticTransform],
) -> None:
    plain, headed = make_space("resnet20@8", 2), make_space("resnet20@8:64", 2)
    for share in (0.2, 0.35, 0.5, 0.7, 0.9):
        architecture = plain.depth_architecture([share])
        without, with_ = plain.cost(architecture)[0], headed.cost(architecture)[0]
        assert without < with_ < 1.08 * without


@pytest.mark.parametrize(
    ("shape", "spent", "expected"),
    [
        ((16, 32, 32), 14_600_000, (2, 2)),  # eight by eight cost a twenty-fourth
        ((16, 32, 32), 5_000_000, (4, 2)),  # but too much so early: four by four
        ((16, 32, 32), 0, (4, 2)),
        ((32, 16, 16), 27_000_000, (1, 2)),
        ((64, 8, 8), 40_000_000, (1, 1)),
        ((64, 8, 8), 30_000_000, (1, 2)),
        ((64, 8, 8), 0, (1, 2)),
        ((512, 2, 2), 0, (1, 1)),
        ((64, 7, 7), 10**9, (1, 1)),
        ((64, 56, 56), 10**9, (4, 2)),
        ((64, 31, 31), 10**9, (1, 2)),  # which no averages divide
    ],
)
def test_a_large_map_is_reduced_before_its_head(
    shape: tuple[int, int, int], spent: int, expected: tuple[int, int]
) -> None:
    assert reduction(shape, 64, spent) == expected


def test_shares_are_equal_and_in_the_order_of_the_stages() -> None:
    assert share_out(9, [1, 3]) == bytes([1] * 4 + [3] * 5)
    assert share_out(2, [0, 1]) == bytes([0, 1])
    assert share_out(3, [2]) == bytes([2] * 3)


def test_new_weights_come_from_a_seed_and_keep_the_variance(
    make_space: Callable[..., StaticTransform], make_base: Callable[[str], nn.Module]
) -> None:
    def weights() -> list[Tensor]:
        space = StaticTransform(
            make_base("resnet20"),
            image_shape=(16, 16),
            preprocess=Preprocess(),
            num_stages=2,
            exit_head_channels=64,
        )
        state = space.masked().state_dict()
        return [state[name] for name in state if name.endswith("_exit_conv.weight")]

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = weights()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(), strict=True))
    for weight in first:
        assert float(weight.square().mean()) == pytest.approx(2 / weight[0].numel(), rel=0.1)


@pytest.mark.parametrize("channels", [-1, 2])
def test_too_few_channels_are_refused(make_base: Callable[[str], nn.Module], channels: int) -> None:
    with pytest.raises(ValueError, match=f"at least one for each of 3 stages, got {channels}"):
        StaticTransform(
            make_base("vgg_small"),
            image_shape=(16, 16),
            preprocess=Preprocess(),
            num_stages=3,
            exit_head_channels=channels,
        )
