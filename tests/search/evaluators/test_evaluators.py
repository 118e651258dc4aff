from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.errors import TrainingError
from offramp_export.network import MultiStageNetwork, Preprocess
from offramp_search.data import ImageSet
from offramp_search.evaluators import FineTune, SharedWeights, exit_features, fit_exits, recalibrate
from offramp_search.spaces import StaticTransform
from offramp_search.training import Recipe

if TYPE_CHECKING:
    from offramp_search.spaces import Architecture


@pytest.fixture
def images(rng: np.random.Generator) -> ImageSet:
    """Two classes: bright above or bright below."""
    labels = rng.integers(0, 2, 96)
    pixels = rng.integers(0, 90, (96, 8, 8, 3))
    for row, label in enumerate(labels):
        pixels[row, 4 * label : 4 * label + 4] += 120
    return ImageSet(pixels.astype(np.uint8), labels.astype(np.int64))


@final
class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.linear = nn.Linear(8 * 16, 2)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.linear(self.features(image).flatten(1))
        return result


@final
class Shifted(nn.Module):
    """One layer of batch normalisation behind a shift that the architecture chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = 0.0
        self.norm = nn.BatchNorm1d(2, affine=False)
        self.dropout = nn.Dropout(0.9)
        self.scale = nn.Parameter(torch.ones(()))

    @property
    def num_classes(self) -> int:
        return 2

    def select(self, architecture: Architecture) -> None:
        self.shift = float(architecture["shift"])

    def exit_features(self, image: Tensor) -> tuple[Tensor, ...]:
        halves = torch.stack([image[:, :4].mean((1, 2, 3)), image[:, 4:].mean((1, 2, 3))], 1)
        return (self.dropout(self.norm(halves / 255 + self.shift)),)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.scale * self.exit_features(image)[0],)


@pytest.fixture
def space() -> StaticTransform:
    torch.manual_seed(0)
    return StaticTransform(
        Base().eval(), image_shape=(8, 8), preprocess=Preprocess(), num_stages=2, groups=4
    )


def test_statistics_are_those_of_the_images(images: ImageSet) -> None:
    network = Shifted().train()
    recalibrate(network, images.images, batch_size=32)
    halves = np.stack([images.images[:, :4], images.images[:, 4:]], 1) / 255
    means = halves.mean(axis=(2, 3, 4))
    assert network.norm.running_mean is not None
    assert network.norm.running_var is not None
    assert network.norm.running_mean.numpy() == pytest.approx(means.mean(0), rel=1e-5)
    chunks = [part.var(axis=0, ddof=1) for part in np.split(means, 3)]
    assert network.norm.running_var.numpy() == pytest.approx(np.mean(chunks, 0), rel=1e-4)
    assert network.norm.momentum == 0.1
    assert network.training
    assert network.dropout.training


@pytest.mark.parametrize("fitting_images", [0, 50])
def test_shared_weights_do_not_care_what_was_evaluated_before(
    images: ImageSet, fitting_images: int
) -> None:
    network = Shifted().eval()
    evaluator = SharedWeights(
        network,
        train=images,
        search=images,
        recalibration_images=40,
        fitting_images=fitting_images,
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = evaluator.evaluate({"shift": 3}, seed=0)
    evaluator.evaluate({"shift": 50}, seed=0)
    again = evaluator.evaluate({"shift": 3}, seed=0)
    np.testing.assert_array_equal(first.logits, again.logits)
    assert first.labels is images.labels
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    # Without new statistics a shift of 50 would saturate; with them it cancels.
    np.testing.assert_allclose(
        first.logits, evaluator.evaluate({"shift": 50}, seed=0).logits, atol=0.01
    )
    assert not np.array_equal(first.logits, evaluator.evaluate({"shift": 3}, seed=1).logits)


def test_shared_weights_of_a_static_transform_answer_as_the_built_network(
    images: ImageSet, space: StaticTransform
) -> None:
    masked = space.masked().eval()
    evaluator = SharedWeights(
        masked, train=images, search=images, recalibration_images=96, fitting_images=0
    )
    for architecture in (space.width_architecture((0.5,)), space.depth_architecture((0.5,))):
        outputs = evaluator.evaluate(architecture, seed=0)
        built = space.build(architecture, weights=masked).eval()
        recalibrate(built, images.images)
        with torch.no_grad():
            expected = torch.stack(built(torch.from_numpy(images.images).float()))
        assert outputs.logits.shape == (2, 96, 2)
        assert outputs.logits.dtype == np.float32
        np.testing.assert_allclose(outputs.logits, expected.numpy(), atol=1e-4)


def test_an_exit_that_was_never_trained_is_given_a_classifier(
    images: ImageSet, space: StaticTransform
) -> None:
    masked = space.masked().eval()
    architecture = space.depth_architecture((0.5,))
    accuracies = {}
    for fitting_images in (0, 48):
        evaluator = SharedWeights(
            masked, train=images, search=images, fitting_images=fitting_images
        )
        outputs = evaluator.evaluate(architecture, seed=0)
        accuracies[fitting_images] = (outputs.logits.argmax(2) == outputs.labels).mean(1)
    # The first exit averages its maps over the image, so edges are all it sees.
    assert accuracies[0][0] < 0.7
    assert accuracies[48][0] > 0.75
    assert accuracies[48][1] > 0.95

    # The same classifiers, written into the network, answer the same once they are built.
    masked.select(architecture)
    recalibrate(masked, images.images)
    exits = fit_exits(masked, images)
    features = exit_features(masked, images.images)
    for stage, one in enumerate(exits):
        masked.set_exit(stage, torch.from_numpy(one.weight), torch.from_numpy(one.bias))
    built = space.build(architecture, weights=masked)
    with torch.no_grad():
        logits = built(torch.from_numpy(images.images).float())
    for one, part, answered in zip(exits, features, logits, strict=True):
        np.testing.assert_allclose(one.logits(part), answered.numpy(), atol=1e-3)


def test_fine_tuning_learns_and_repeats_itself(images: ImageSet, space: StaticTransform) -> None:
    evaluator = FineTune(
        space.build,
        train=images,
        search=images,
        recipe=Recipe(epochs=8, batch_size=16, learning_rate=0.05),
    )
    architecture = space.width_architecture((0.5,))
    outputs = evaluator.evaluate(architecture, seed=0)
    accuracies = (outputs.logits.argmax(2) == outputs.labels).mean(1)
    assert accuracies.min() > 0.9
    again = evaluator.evaluate(architecture, seed=0)
    np.testing.assert_array_equal(outputs.logits, again.logits)
    other = evaluator.evaluate(architecture, seed=1)
    assert not np.array_equal(outputs.logits, other.logits)


@final
class Exploding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.weight * torch.inf * image.mean((1, 2, 3))[:, None],)


def test_training_that_diverges_says_so(images: ImageSet) -> None:
    evaluator = FineTune(
        lambda _: MultiStageNetwork([Exploding()]),
        train=images,
        search=images,
        recipe=Recipe(epochs=1, batch_size=16),
    )
    with pytest.raises(TrainingError, match="loss became nan"):
        evaluator.evaluate({}, seed=0)


def test_what_cannot_be_evaluated_is_refused(images: ImageSet) -> None:
    with pytest.raises(ValueError, match=r"at least 1 .* got 0, 256 and 1500"):
        SharedWeights(Shifted(), train=images, search=images, recalibration_images=0)
    with pytest.raises(ValueError, match="fitting_images at least 0, got 512, 256 and -1"):
        SharedWeights(Shifted(), train=images, search=images, fitting_images=-1)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        SharedWeights(object(), train=images, search=images)  # type: ignore[arg-type]
