from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.errors import TrainingError
from offramp_export.network import Preprocess
from offramp_search.data import ImageSet
from offramp_search.evaluators import (
    HEAD_RECIPE,
    SharedWeights,
    fit_all_exits,
    recalibrate,
    train_head,
)
from offramp_search.evaluators._heads import cached_images
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp_search.spaces import MaskedNetwork
    from offramp_search.spaces.static_transform import ExitHead

SHORT = replace(HEAD_RECIPE, epochs=3, batch_size=16)
LONG = replace(HEAD_RECIPE, epochs=20, batch_size=20, learning_rate=0.01)


@final
class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.linear = nn.Linear(16, 2)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.linear(self.features(image).mean((2, 3)))
        return result


def _pairs(count: int, seed: int) -> ImageSet:
    """Bright pixels two columns left or right of dark ones: no one convolution sees both.

    They wrap around, so that nothing can be learned of where they lie.
    """
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 130, (count, 8, 8, 3))
    labels = rng.integers(0, 2, count)
    for image, label in zip(pixels, labels, strict=True):
        for _ in range(4):
            row, column = rng.integers(0, 8, 2)
            image[row, column], image[row, (column + 2 - 4 * label) % 8] = 255, 0
    return ImageSet(pixels.astype(np.uint8), labels.astype(np.int64))


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return _pairs(600, 0)


def _space(heads: int, stages: int = 2) -> StaticTransform:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        base = Base().eval()
    return StaticTransform(
        base,
        image_shape=(8, 8),
        preprocess=Preprocess(),
        num_stages=stages,
        groups=4,
        exit_head_channels=heads,
    )


@pytest.fixture
def shared(images: ImageSet) -> tuple[StaticTransform, MaskedNetwork]:
    """Two thin stages that end on one map, and a third; statistics that fit."""
    space = _space(8, stages=3)
    masked = space.masked().eval()
    masked.select(dict(zip(space.decisions(), ("2+2+0", "2+2+0", "0+0+4"), strict=True)))
    recalibrate(masked, images.images)
    return space, masked


@final
class Rerun:
    """Runs the layers before the head for every batch anew."""

    def __init__(self, network: MaskedNetwork, images: NDArray[np.uint8]) -> None:
        self.network, self.images = network, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: NDArray[np.intp], /) -> NDArray[np.float32]:
        with torch.no_grad():
            reads = self.network.frozen_reads(torch.from_numpy(self.images[rows]).float())
        return reads[0].numpy()


def _weights(head: ExitHead) -> Tensor:
    return torch.cat([part.detach().double().flatten() for part in head.state_dict().values()])


def test_maps_computed_once_train_as_maps_computed_each_time(
    shared: tuple[StaticTransform, MaskedNetwork], images: ImageSet
) -> None:
    masked = shared[1]
    (head,) = masked.heads()
    assert head.stages == (0, 1)
    images = images.take(np.arange(96))
    again = Rerun(masked, images.images)
    maps = again[np.arange(96)]
    before = _weights(head)

    def trained(maps: Rerun | NDArray[np.float32] | NDArray[np.float16]) -> Tensor:
        generator = np.random.default_rng(3)
        return _weights(train_head(head, maps, images.labels, recipe=SHORT, generator=generator))

    each_time, once = trained(again), trained(maps)
    assert float((once - each_time).abs().max()) < 1e-3
    assert float((once - before).abs().max()) > 0.1
    # Half precision moves a weight by little of what training moves it by.
    assert float((trained(maps.astype(np.float16)) - once).norm() / (once - before).norm()) < 0.05
    assert torch.equal(before, _weights(head))


@torch.no_grad()
def test_a_copy_of_a_head_answers_as_the_network(
    shared: tuple[StaticTransform, MaskedNetwork], images: ImageSet
) -> None:
    masked, batch = shared[1], torch.from_numpy(images.images[:16]).float()
    (head,) = masked.heads()
    reads = masked.frozen_reads(batch)
    assert reads[0] is reads[1]
    assert reads[0].shape[1:] == head.map_shape
    for ours, theirs in zip(head(reads[0]), masked(batch), strict=False):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.equal(reads[2], masked.exit_features(batch)[2])


@torch.no_grad()
def test_trained_heads_answer_the_same_once_they_are_built(
    shared: tuple[StaticTransform, MaskedNetwork], images: ImageSet
) -> None:
    space, masked = shared
    state = {name: value.clone() for name, value in masked.state_dict().items()}
    with torch.enable_grad():
        fitted = fit_all_exits(
            masked, images, generator=np.random.default_rng(0), recipe=SHORT, batch_size=64
        )
    for name, value in masked.state_dict().items():
        assert torch.equal(value, state[name]), name
    expected = fitted.logits(masked, images.images, batch_size=50)
    assert expected.shape == (3, 600, 2)
    assert expected.dtype == np.float32
    fitted.give_to(masked)
    batch = torch.from_numpy(images.images).float()
    architecture = dict(zip(space.decisions(), ("2+2+0", "2+2+0", "0+0+4"), strict=True))
    built = space.build(architecture, weights=masked)
    for exit, (ours, theirs) in enumerate(zip(masked(batch), built(batch), strict=True)):
        np.testing.assert_allclose(ours.numpy(), expected[exit], atol=1e-3)
        np.testing.assert_allclose(theirs.numpy(), expected[exit], atol=1e-3)


def test_shared_weights_with_heads_see_what_a_classifier_does_not(images: ImageSet) -> None:
    search = _pairs(300, 1)
    accuracies = {}
    for heads in (0, 32):
        space = _space(heads)
        masked = space.masked().eval()
        architecture = dict(zip(space.decisions(), ("4+0", "0+4", "0+4"), strict=True))
        evaluator = SharedWeights(
            masked,
            train=images,
            search=search,
            fitting_images=600,
            head_recipe=LONG,
            batch_size=100,
        )
        before = {name: value.clone() for name, value in masked.state_dict().items()}
        outputs = evaluator.evaluate(architecture, seed=0)
        accuracies[heads] = (outputs.logits.argmax(2) == outputs.labels).mean(1)
        again = evaluator.evaluate(architecture, seed=0)
        np.testing.assert_array_equal(outputs.logits, again.logits)
        for name, value in masked.state_dict().items():
            assert torch.equal(value, before[name]), name
    assert accuracies[0][0] < 0.65
    assert accuracies[32][0] > 0.75
    # The last exit is the base's own with or without them.
    assert accuracies[32][1] == pytest.approx(accuracies[0][1], abs=0.01)


def test_a_teacher_can_be_the_only_one_who_knows(
    shared: tuple[StaticTransform, MaskedNetwork], images: ImageSet
) -> None:
    masked = shared[1]
    (head,) = masked.heads()
    maps = Rerun(masked, images.images)[np.arange(len(images))]
    teacher = (4.0 * np.eye(2, dtype=np.float32))[images.labels]
    nothing = np.zeros_like(images.labels)
    trained = train_head(
        head,
        maps,
        nothing,
        recipe=replace(LONG, distill_alpha=1.0),
        teacher=teacher,
        generator=np.random.default_rng(0),
    )
    with torch.no_grad():
        answers = trained(torch.from_numpy(maps))[1].argmax(1).numpy()
    assert (answers == images.labels).mean() > 0.8


def test_statistics_of_a_trained_head_are_those_of_its_maps(
    shared: tuple[StaticTransform, MaskedNetwork], images: ImageSet
) -> None:
    (head,) = shared[1].heads()
    maps = Rerun(shared[1], images.images)[np.arange(200)]
    trained = train_head(
        head, maps, images.labels[:200], recipe=SHORT, generator=np.random.default_rng(0)
    )
    norm = trained.layers[0]
    assert isinstance(norm, nn.BatchNorm2d)
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        trained(torch.from_numpy(maps))
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, seen[0].mean((0, 2, 3)), atol=1e-4)


def test_maps_that_find_no_room_are_left_out_evenly(
    shared: tuple[StaticTransform, MaskedNetwork], images: ImageSet
) -> None:
    heads = shared[1].heads()
    each = 2 * int(np.prod(heads[0].map_shape))
    assert cached_images(10, heads, 10 * each).tolist() == list(range(10))
    assert cached_images(10, heads, 5 * each + 1).tolist() == [0, 2, 4, 6, 8]
    fitted = fit_all_exits(
        shared[1],
        images,
        generator=np.random.default_rng(0),
        recipe=LONG,
        batch_size=64,
        memory_bytes=100 * each,
    )
    seen = images.take(np.arange(0, 600, 6))
    answers = fitted.logits(shared[1], seen.images).argmax(2)
    assert (answers[1] == seen.labels).mean() > 0.8  # each with its own label
    assert set(fitted.linear) == {2}


def test_a_head_goes_back_where_it_came_from_only(
    shared: tuple[StaticTransform, MaskedNetwork],
) -> None:
    space, masked = shared
    (head,) = masked.heads()
    masked.set_head(head)
    masked.select(space.depth_architecture([0.3, 0.6]))
    with pytest.raises(ValueError, match=r"stages \(0, 1\) share no head"):
        masked.set_head(head)
    with pytest.raises(RuntimeError, match="select"):
        space.masked().heads()


def test_what_cannot_be_trained_says_so(
    shared: tuple[StaticTransform, MaskedNetwork], images: ImageSet
) -> None:
    masked = shared[1]
    (head,) = masked.heads()
    maps = np.zeros((4, *head.map_shape), np.float32)
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"got 4 maps, \(3,\) labels"):
        train_head(head, maps, images.labels[:3], generator=generator)
    with pytest.raises(ValueError, match=r"\(4,\) labels and \(3, 2\) answers"):
        train_head(
            *(head, maps, images.labels[:4]),
            teacher=np.zeros((3, 2), np.float32),
            generator=generator,
        )
    with pytest.raises(TrainingError, match="head became nan in step 1 of"):
        train_head(head, maps * np.nan, images.labels[:4], generator=generator)
    with torch.no_grad():
        for parameter in masked.parameters():
            parameter.mul_(1e6)
    with pytest.raises(TrainingError, match="half precision ends at 65504"):
        fit_all_exits(masked, images, generator=generator)
