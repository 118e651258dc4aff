from __future__ import annotations

import copy
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from offramp_export.network import MultiStageNetwork, Preprocess
from offramp_search.spaces import StaticTransform
from offramp_search.spaces._modules import Reorder, Select

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp_search.spaces import Architecture, MaskedNetwork

NAMES = (
    *("resnet20", "vgg_small", "mobilenet", "densenet", "shufflenet"),
    *("vgg_small/4", "densenet/3"),
    *("resnet20/2@4", "mobilenet@3+sum", "densenet+sum"),
    *("vgg_small/4:9", "shufflenet/2@3:8+sum"),
)

every_network = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0)) * 255


def _difference(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    assert len(ours) == len(theirs)
    pairs = zip(ours, theirs, strict=True)
    return max(float(((a - b).abs().max() / b.abs().max()).detach()) for a, b in pairs)


@every_network
@torch.no_grad()
def test_one_stage_answers_as_the_base(
    name: str,
    make_space: Callable[..., StaticTransform],
    make_base: Callable[[str], nn.Module],
    images: Tensor,
) -> None:
    space = make_space(name, 1)
    network = space.build(space.static_architecture())
    assert _difference(network(images), (make_base(name)(Preprocess()(images)),)) < 1e-5


@dataclass
class Sample:
    """A space and what it builds of twenty random architectures and one set of weights."""

    space: StaticTransform
    masked: MaskedNetwork
    built: list[tuple[Architecture, MultiStageNetwork]]


@pytest.fixture(scope="module", params=[(name, stages) for name in NAMES for stages in (2, 3)])
def sample(
    request: pytest.FixtureRequest,
    make_space: Callable[..., StaticTransform],
    draw: Callable[[StaticTransform, np.random.Generator], Architecture],
) -> Sample:
    space = make_space(*request.param)
    masked = space.masked().eval()
    rng = np.random.default_rng(7)
    architectures = [draw(space, rng) for _ in range(20)]
    return Sample(space, masked, [(a, space.build(a, weights=masked)) for a in architectures])


@torch.no_grad()
def test_stage_by_stage_equals_the_whole_at_once(sample: Sample, images: Tensor) -> None:
    for architecture, network in sample.built:
        sample.masked.select(architecture)
        assert len(network.stages) == sample.space.num_stages
        assert _difference(network(images), sample.masked(images)) < 1e-5, architecture


@torch.no_grad()
def test_an_exit_does_not_depend_on_later_stages(sample: Sample, images: Tensor) -> None:
    for _, built in sample.built:
        network = copy.deepcopy(built)
        for kept in range(sample.space.num_stages - 1, 0, -1):
            whole = network(images)
            alone = MultiStageNetwork(list(network.stages)[:kept])(images)
            assert all(torch.equal(a, b) for a, b in zip(alone, whole[:kept], strict=True))
            # Weights that only later stages hold change later exits alone.
            for parameter in network.stages[kept].parameters():
                parameter.add_(1.0)
            disturbed = network(images)
            assert all(torch.equal(a, b) for a, b in zip(disturbed[:kept], alone, strict=True))
            assert not torch.equal(disturbed[kept], whole[kept])


@torch.no_grad()
def test_predicted_cost_is_the_counted_cost(sample: Sample, images: Tensor) -> None:
    for architecture, network in sample.built:
        carry: tuple[Tensor, ...] = (images[:1],)
        counted = []
        for stage in network.stages:
            with FlopCounterMode(display=False) as counter:
                _, *carry_ = stage(*carry)
            carry = tuple(carry_)
            counted.append(counter.get_total_flops() // 2)
        assert sample.space.cost(architecture) == tuple(counted)
        assert sample.space.parameters(architecture) == tuple(
            sum(parameter.numel() for parameter in stage.parameters()) for stage in network.stages
        )


@torch.no_grad()
def test_every_operator_is_in_one_block(sample: Sample) -> None:
    for architecture, network in sample.built[:3]:
        cost = sample.space.cost(architecture)
        all_blocks = sample.space.blocks(architecture)
        for stage, blocks, expected in zip(network.stages, all_blocks, cost, strict=True):
            operators: list[str] = []
            work = 0
            for block in blocks:
                module = block.module()
                assert not module.training
                inputs = [torch.rand(shape) for shape in block.input_shapes]
                with FlopCounterMode(display=False) as counter:
                    assert isinstance(module(*inputs), Tensor)
                work += counter.get_total_flops() // 2
                operators += [type(m).__name__ for m in module.get_submodule("steps").children()]
            built = [type(m).__name__.replace("Preprocess", "Normalise") for m in stage.children()]
            assert sorted(operators) == sorted(built)
            assert work == expected


def test_equal_blocks_have_equal_keys(make_space: Callable[..., StaticTransform]) -> None:
    space = make_space("resnet20", 2)
    first, second = space.blocks(space.width_architecture([0.5]))
    # Both blocks of layer1 after the first are alike, so there are fewer keys than blocks.
    assert len({block.key for block in first}) < len(first)
    assert first[0].key != second[0].key
    assert first[0].input_shapes == ((1, 3, 16, 16),)


@torch.no_grad()
def test_an_exit_reads_no_weight_that_is_masked(
    make_space: Callable[..., StaticTransform], images: Tensor
) -> None:
    space = make_space("vgg_small", 2)
    masked = space.masked().eval()
    masked.select(space.width_architecture([0.5]))
    early, late = masked(images)
    convolution = masked.get_submodule("layers.features_4")
    assert isinstance(convolution, nn.Conv2d)
    convolution.weight[:64, 32:] += 1  # from channels of stage 1 to channels of stage 0
    assert all(torch.equal(a, b) for a, b in zip(masked(images), (early, late), strict=True))
    convolution.weight[64:, :32] += 1
    assert torch.equal(masked(images)[0], early)
    assert not torch.equal(masked(images)[1], late)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet", "densenet"])
def test_a_sum_trains_as_a_concatenation_does(
    name: str, make_space: Callable[..., StaticTransform], images: Tensor
) -> None:
    joined, summed = make_space(name, 3), make_space(f"{name}+sum", 3)
    architecture = joined.width_architecture([0.3, 0.6])
    networks = [space.build(architecture).train() for space in (joined, summed)]
    torch.manual_seed(0)
    expected = networks[0](images)
    torch.manual_seed(0)  # what drops out
    answers = networks[1](images)
    assert _difference(answers, expected) < 1e-4
    for logits in (expected, answers):
        sum(exit_.square().sum() for exit_ in logits).backward()
    norms = [
        sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None)
        for network in networks
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    # Running statistics moved alike.
    assert _difference(networks[1].eval()(images), networks[0].eval()(images)) < 1e-4
    assert joined.cost(architecture) == summed.cost(architecture)
    kinds = [
        Counter(type(m).__name__ for stage in network.stages for m in stage.children())
        for network in networks
    ]
    assert kinds[1]["SummedConvolution"] > 0
    assert kinds[1]["Concatenate"] < kinds[0]["Concatenate"]


def test_gradients_reach_shared_weights_and_built_ones(
    make_space: Callable[..., StaticTransform], images: Tensor
) -> None:
    space = make_space("mobilenet", 2)
    # The grouped convolution lets the stem be cut into pairs of channels only.
    architecture = {**space.width_architecture([0.5]), "stem.0": "2+3"}
    masked = space.masked()
    masked.select(architecture)
    logits = masked.train()(images)
    torch.stack([part.square().sum() for part in logits]).sum().backward()  # type: ignore[no-untyped-call]
    weight = masked.get_submodule("layers.expand_0").weight
    assert isinstance(weight, Tensor)
    assert weight.grad is not None
    assert weight.grad[:15, :4].abs().sum() > 0
    assert weight.grad[:15, 4:].abs().sum() == 0
    network = space.build(architecture).train()
    torch.stack([part.square().sum() for part in network(images)]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in network.parameters())


@torch.no_grad()
def test_built_networks_own_their_weights(
    make_space: Callable[..., StaticTransform], images: Tensor
) -> None:
    space = make_space("vgg_small", 2)
    architecture = space.width_architecture([0.5])
    before = space.build(architecture)(images)
    for parameter in space.build(architecture).parameters():
        parameter.zero_()
    assert all(
        torch.equal(a, b) for a, b in zip(space.build(architecture)(images), before, strict=True)
    )


def test_where_a_path_ends_its_exit_hangs(make_space: Callable[..., StaticTransform]) -> None:
    space = make_space("vgg_small", 2)
    architecture = {"features.0": "8+0", "features.4": "8+0", "features.8": "0+8"}
    network = space.build(architecture | {"features.11": "0+8"})
    first, second = network.stages
    assert [name for name, _ in first.named_children()] == [
        "preprocess",
        *(f"features_{i}" for i in range(7)),
        "features_6_exit",
        "exit",
    ]
    # The pooling after it is of use to stage 1 only, so stage 1 computes it.
    assert next(name for name, _ in second.named_children()) == "features_7"


def test_exits_see_a_grid_of_their_maps(make_space: Callable[..., StaticTransform]) -> None:
    space = make_space("vgg_small/4", 2)
    architecture = {"features.0": "8+0", "features.4": "8+0", "features.8": "0+8"}
    first, _ = space.build(architecture | {"features.11": "0+8"}).stages
    pool, flatten, exit = (module for _, module in list(first.named_children())[-3:])
    image = torch.rand(1, 16, 16, 3)
    widths = {}
    for name, module in (("pool", pool), ("flatten", flatten)):
        module.register_forward_hook(lambda _, __, output, name=name: widths.update({name: output}))
    first(image)
    assert widths["pool"].shape[2:] == (4, 4)
    assert widths["flatten"].shape[1] == exit.in_features == 16 * widths["pool"].shape[1]
    with pytest.raises(ValueError, match="exit_grid must be positive"):
        StaticTransform(
            nn.Linear(1, 1),
            image_shape=(16, 16),
            preprocess=Preprocess(),
            num_stages=2,
            exit_grid=0,
        )


@torch.no_grad()
def test_nothing_is_computed_that_no_exit_needs(
    make_space: Callable[..., StaticTransform],
) -> None:
    space = make_space("vgg_small", 2)
    # Half of the second layer is for stage 1, but all of the third is computed in stage 0 and
    # cannot read it.
    architecture = {"features.0": "8+0", "features.4": "4+4", "features.8": "8+0"}
    network = space.build(architecture | {"features.11": "4+4"})
    assert "features_4" in dict(network.stages[0].named_children())
    assert "features_4" not in dict(network.stages[1].named_children())


def test_a_shuffle_costs_a_few_ranges_and_gathers_nothing(
    make_space: Callable[..., StaticTransform],
    draw: Callable[[StaticTransform, np.random.Generator], Architecture],
    rng: np.random.Generator,
) -> None:
    space = make_space("shufflenet", 2)
    # Of 24 channels half pass by, a quarter passes by twice, and so on: at most log2(24) ranges;
    # twice as many where an exit reads what one stage computed before the next one goes on.
    corners = [space.width_architecture([0.5]), space.depth_architecture([0.5])]
    for number, architecture in enumerate(corners + [draw(space, rng) for _ in range(20)]):
        for stage in space.build(architecture).stages:
            assert not any(isinstance(module, Reorder) for module in stage.modules())
            selected = [len(m.ranges) for m in stage.modules() if isinstance(m, Select)]
            assert max(selected, default=0) <= (5 if number < len(corners) else 10)


def test_equal_shares_stay_equal_through_shuffles(
    make_space: Callable[..., StaticTransform],
) -> None:
    space = make_space("shufflenet", 2)
    network = space.build(space.width_architecture([0.5]))
    first = network.stages[0]
    for block in (1, 2, 3):
        # It reads six of the twelve channels that the base's block reads, or nearly.
        layer = first.get_submodule(f"branches_{block}_0")
        assert isinstance(layer, nn.Conv2d)
        assert 5 <= layer.in_channels <= 7
        assert layer.out_channels in (5, 6, 7)


def test_refusals_say_why(make_space: Callable[..., StaticTransform]) -> None:
    space = make_space("vgg_small", 2)
    nothing_first = dict.fromkeys(space.decisions(), "0+8")
    nothing_second = dict.fromkeys(space.decisions(), "8+0")
    assert "stage 0 has no map" in str(space.refusal(nothing_first))
    assert "stage 1 computes nothing" in str(space.refusal(nothing_second))
    with pytest.raises(ValueError, match="stage 1 computes nothing"):
        space.build(nothing_second)
    with pytest.raises(ValueError, match=r"missing: \['features.11'\]"):
        space.cost(dict.fromkeys(list(space.decisions())[:-1], "4+4"))
    with pytest.raises(ValueError, match="no choice '5'"):
        space.refusal(dict.fromkeys(space.decisions(), "5"))


@every_network
def test_corners_are_valid(name: str, make_space: Callable[..., StaticTransform]) -> None:
    for stages, shares in ((2, [0.5]), (3, [0.3, 0.6])):
        space = make_space(name, stages)
        for architecture in (space.width_architecture(shares), space.depth_architecture(shares)):
            assert space.refusal(architecture) is None, architecture
    with pytest.raises(ValueError, match="rising"):
        make_space(name, 3).width_architecture([0.6, 0.3])


def test_layers_of_one_residual_stream_choose_together(
    make_space: Callable[..., StaticTransform],
) -> None:
    names = list(make_space("resnet20", 2).decisions())
    # Three streams and the nine layers inside the blocks.
    assert len(names) == 12
    assert "conv1" in names
    assert "layer1.0.conv2" not in names


@torch.no_grad()
def test_layers_of_one_shape_can_be_tied(
    make_base: Callable[[str], nn.Module], images: Tensor
) -> None:
    space = StaticTransform(
        make_base("resnet20"),
        image_shape=(16, 16),
        preprocess=Preprocess(),
        num_stages=2,
        tie=True,
    )
    # Three streams, and the layers inside the blocks of each.
    assert list(space.decisions()) == [
        "conv1",
        "layer1.0.conv1",
        "layer2.0.conv1",
        "layer2.0.conv2",
        "layer3.0.conv1",
        "layer3.0.conv2",
    ]
    network = space.build(dict.fromkeys(space.decisions(), "2+6"))
    for block in ("layer2_0", "layer2_2"):
        inner = network.stages[0].get_submodule(f"{block}_conv1")
        assert isinstance(inner, nn.Conv2d)
        assert inner.out_channels == 8
    assert network(images)[1].shape == (2, 7)


def test_groups_bound_the_choices(make_base: Callable[[str], nn.Module]) -> None:
    space = StaticTransform(
        make_base("vgg_small"),
        image_shape=(16, 16),
        preprocess=Preprocess(),
        num_stages=3,
        groups=2,
    )
    choices = next(iter(space.decisions().values())).choices  # type: ignore[attr-defined]
    assert choices == ("2+0+0", "1+1+0", "1+0+1", "0+2+0", "0+1+1", "0+0+2")
    for num_stages, groups in ((0, 8), (2, 0)):
        with pytest.raises(ValueError, match="got 0"):
            StaticTransform(
                make_base("vgg_small"),
                image_shape=(16, 16),
                preprocess=Preprocess(),
                num_stages=num_stages,
                groups=groups,
            )


def test_parts_are_multiples_of_the_vector_width(make_base: Callable[[str], nn.Module]) -> None:
    space = StaticTransform(
        make_base("resnet20"),
        image_shape=(16, 16),
        preprocess=Preprocess(),
        num_stages=2,
        vector_width=32,
    )
    choices = [kind.choices for kind in space.decisions().values()]  # type: ignore[attr-defined]
    # 16 and 32 channels stay whole, 64 are cut in two.
    assert choices[0] == ("1+0", "0+1")
    assert choices[-1] == ("2+0", "1+1", "0+2")
    cut = {
        name: "1+1" if "1+1" in possible else "1+0"
        for name, possible in zip(space.decisions(), choices, strict=True)
    }
    network = space.build(cut)
    widths = {m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)}
    assert widths == {16, 32}


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.25, {4, 8, 16}),
        (0.5, {8, 16, 32}),
        # What a padded shortcut brings of the channels left out is missing in the middle of a map.
        (0.75, {12, 20, 24, 36, 48}),
    ],
)
def test_a_first_stage_may_have_any_share(
    make_base: Callable[[str], nn.Module], share: float, expected: set[int]
) -> None:
    space = StaticTransform(
        make_base("resnet20"),
        image_shape=(16, 16),
        preprocess=Preprocess(),
        num_stages=3,
        groups=4,
        tie=True,
    )
    first = space.build(space.narrow_architecture(share)).stages[0]
    widths = {m.out_channels for m in first.modules() if isinstance(m, nn.Conv2d)}
    assert widths == expected


def test_costs_are_cheap(
    make_space: Callable[..., StaticTransform],
    propose: Callable[[StaticTransform, np.random.Generator], Architecture],
    rng: np.random.Generator,
) -> None:
    space = make_space("resnet20", 3)
    proposals = [propose(space, rng) for _ in range(200)]
    start = time.perf_counter()
    for architecture in proposals:
        if space.refusal(architecture) is None:
            space.cost(architecture)
    assert (time.perf_counter() - start) / len(proposals) < 5e-3
