from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.errors import UnsupportedOperatorError
from offramp_export.network import Preprocess
from offramp_search.data import ImageSet
from offramp_search.evaluators import ObjectiveFineTune, ObjectiveSharedWeights
from offramp_search.objectives import OBJECTIVES, ObjectiveNetwork, make_objective
from offramp_search.spaces import StaticTransform
from offramp_search.training import Recipe, train

if TYPE_CHECKING:
    from offramp_search.objectives import ObjectiveName


@final
class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.linear = nn.Linear(8, 10)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.linear(self.features(image).flatten(1))
        return result


@pytest.fixture
def images() -> ImageSet:
    """Bright and blue above, dark and green below: every objective has something to find."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (128, 32, 32, 3)).astype(np.float64)
    slope = np.linspace(180, 0, 32)[None, :, None]
    pixels[..., 2] += slope
    pixels[..., 1] += 180 - slope
    pixels[:, :, :16, 0] += 60
    pixels[:, :16] *= 1.0
    pixels[:, 16:] *= 0.7
    return ImageSet(np.clip(pixels, 0, 255).astype(np.uint8), np.zeros(128, np.int64))


@pytest.fixture
def space() -> StaticTransform:
    torch.manual_seed(0)
    return StaticTransform(
        Base().eval(), image_shape=(32, 32), preprocess=Preprocess(), num_stages=2, groups=4
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_both_evaluators_answer_at_every_exit(
    name: ObjectiveName, images: ImageSet, space: StaticTransform
) -> None:
    objective = make_objective(name, (32, 32))
    architecture = space.width_architecture([0.5])
    train_set, search_set = images.take(np.arange(96)), images.take(np.arange(96, 128))
    tuned = ObjectiveFineTune(
        space.masked,
        objective,
        train=train_set,
        search=search_set,
        recipe=Recipe(epochs=6, batch_size=16, learning_rate=0.1),
        answers=100,
    )
    masked = space.masked().eval()
    before = {key: value.clone() for key, value in masked.state_dict().items()}
    shared = ObjectiveSharedWeights(
        masked, objective, train=train_set, search=search_set, answers=400
    )
    for evaluator, most in ((tuned, 100), (shared, 400)):
        first = evaluator.evaluate(architecture, seed=1)
        assert first.logits.shape == (2, len(first.labels), objective.classes)
        assert 32 <= len(first.labels) <= most
        again = evaluator.evaluate(architecture, seed=1)
        assert np.array_equal(first.logits, again.logits)
        assert np.array_equal(first.labels, again.labels)
        commonest = np.bincount(first.labels).max() / len(first.labels)
        assert objective.score(first.logits, first.labels)[1] > commonest
    assert all(torch.equal(value, before[key]) for key, value in masked.state_dict().items())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_shared_weights_train_for_an_objective(
    name: ObjectiveName, images: ImageSet, space: StaticTransform
) -> None:
    objective = make_objective(name, (32, 32))
    masked = space.masked()
    network = ObjectiveNetwork(masked, objective)
    choices = [space.width_architecture([0.5]), space.depth_architecture([0.5])]
    history = train(
        network,
        images,
        recipe=Recipe(epochs=4, batch_size=16, learning_rate=0.1),
        transform=lambda batch, drawn: objective.transform(batch, drawn, train=True),
        before_step=lambda step, drawn: masked.select(choices[step % 2]),
    )
    assert history.epochs[-1].loss < history.epochs[0].loss


def test_an_exit_reads_what_its_stage_has(space: StaticTransform) -> None:
    masked = space.masked().eval()
    masked.select(space.width_architecture([0.5]))
    batch = torch.rand(3, 32, 32, 3) * 255
    plain = masked.exit_features(batch)
    reads = masked.exit_reads(batch, maps=False)
    maps = masked.exit_reads(batch, maps=True)
    for (place, read), (other, map_), features in zip(reads, maps, plain, strict=True):
        assert place == other
        assert map_.ndim == 4
        assert torch.allclose(map_.mean((2, 3)), read, atol=1e-5)
        assert read.count_nonzero(0).gt(0).sum() <= features.shape[1]
        assert torch.allclose(read.sum(1), features.sum(1), atol=1e-4)
    assert masked.exit_widths(maps=True).keys() == masked.exit_widths(maps=False).keys()


def test_a_network_without_maps_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(1), nn.Linear(3 * 4 * 4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    space = StaticTransform(flat, image_shape=(4, 4), preprocess=Preprocess(), num_stages=1)
    with pytest.raises(UnsupportedOperatorError, match="no map"):
        space.masked().exit_widths(maps=True)
