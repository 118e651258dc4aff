"""Several processes train as one does: gradients of shares are averaged, and one process writes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from offramp.errors import DataError, DeviceError, ResumeError, TrainingError
from offramp_export.network import MultiStageNetwork, Preprocess
from offramp_search.bases import Base
from offramp_search.objectives import ObjectiveNetwork, Rotation
from offramp_search.pipeline._supernet import LastExit, RandomSelection, static_network
from offramp_search.spaces import StaticTransform
from offramp_search.training import Hardware, Recipe, TrainingProgress, train

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from offramp_search.data import ImageSet
    from offramp_search.objectives import Examples

TWO = Hardware(accelerator="cpu", devices=2, precision="32-true")
ONE = Hardware(accelerator="cpu", precision="32-true")


def plain(norm: bool = False, seed: int = 0) -> nn.Sequential:
    """A network of torch's own modules, which other processes can be handed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )


def network(norm: bool = False, seed: int = 0) -> MultiStageNetwork:
    return static_network(Base(name="plain", module=plain(norm, seed), preprocess=Preprocess()))


def test_two_processes_train_as_one_does(images: ImageSet, tmp_path: Path) -> None:
    # 31 images cannot be shared evenly, and augmentation and teacher see what they see alone.
    recipe = Recipe(
        epochs=2, batch_size=31, learning_rate=0.1, horizontal_flip=True, pad_crop=1, clip_norm=0.5
    )
    teacher = LastExit(network(seed=5))
    alone, together = network(), network()
    expected = train(alone, images, recipe=recipe, teacher=teacher, hardware=ONE)
    seen: list[TrainingProgress] = []
    checkpoint = tmp_path / "checkpoint.safetensors"
    history = train(
        together,
        images,
        recipe=recipe,
        teacher=teacher,
        hardware=TWO,
        checkpoint=checkpoint,
        progress=seen.append,
    )
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(
            together.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name
        )
    name, before = next(iter(network().named_parameters()))
    assert not torch.equal(before, together.get_parameter(name))
    assert [epoch.exit_accuracies for epoch in history.epochs] == [
        epoch.exit_accuracies for epoch in expected.epochs
    ]
    assert seen[-1].step == seen[-1].steps == 12
    assert not together.training

    # The first process left a checkpoint; another number of devices is another training.
    with pytest.raises(ResumeError, match="number of devices"):
        train(network(), images, recipe=recipe, hardware=ONE, checkpoint=checkpoint)
    again = network(seed=9)
    train(again, images, recipe=recipe, teacher=teacher, hardware=TWO, checkpoint=checkpoint)
    for name, value in together.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_running_statistics_are_the_average_of_both_shares(images: ImageSet) -> None:
    recipe = Recipe(epochs=1, batch_size=192, learning_rate=1e-9)
    alone, together = network(norm=True), network(norm=True)
    train(alone, images, recipe=recipe, hardware=ONE)
    train(together, images, recipe=recipe, hardware=TWO)
    mean, variance = (
        [net.get_buffer(f"stages.0.module.1.{name}") for net in (alone, together)]
        for name in ("running_mean", "running_var")
    )
    torch.testing.assert_close(mean[1], mean[0], rtol=1e-4, atol=1e-5)
    # The variance of a share leaves out how the means of shares differ.
    torch.testing.assert_close(variance[1], variance[0], rtol=0.05, atol=1e-3)
    assert not torch.equal(variance[1], torch.ones(8))


def test_a_network_of_all_architectures_learns_a_task_in_two_processes(images: ImageSet) -> None:
    space = StaticTransform(
        plain(norm=True), image_shape=(8, 8), preprocess=Preprocess(), num_stages=2, groups=4
    )
    masked = space.masked()
    objective = Rotation((8, 8))
    asked = ObjectiveNetwork(masked, objective, seed=0)
    before = {name: value.clone() for name, value in asked.state_dict().items()}
    train(
        asked,
        images,
        recipe=Recipe(epochs=1, batch_size=48),
        hardware=TWO,
        before_step=RandomSelection(space, masked),
        transform=_Turned(objective),
    )
    assert any(not torch.equal(before[name], value) for name, value in asked.state_dict().items())


class _Turned:
    """Found by other processes under the name of this module."""

    def __init__(self, objective: Rotation) -> None:
        self.objective = objective

    def __call__(self, images: NDArray[np.float32], drawn: np.random.Generator) -> Examples:
        return self.objective.transform(images, drawn, train=True)


def test_a_loss_that_is_no_number_ends_both(images: ImageSet) -> None:
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(
            network(),
            images,
            recipe=Recipe(epochs=9, learning_rate=1e30, clip_norm=None, momentum=0.0),
            hardware=TWO,
        )


def test_what_cannot_be_handed_over_is_said_before_processes_start(images: ImageSet) -> None:
    held = network()
    held.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(DataError, match=r"cannot be pickled.*or train on one device"):
        train(held, images, recipe=Recipe(epochs=1), hardware=TWO)


def test_more_than_there_is_is_refused(images: ImageSet) -> None:
    with pytest.raises(DeviceError, match="100000 cpu devices, but this machine has"):
        Hardware(accelerator="cpu", devices=100_000).check()
    with pytest.raises(DataError, match="batches of 1 images do not go round 2 devices"):
        train(network(), images.take(np.arange(1)), recipe=Recipe(epochs=1), hardware=TWO)
    with pytest.raises(ValueError, match="devices must be at least 1, got 0"):
        Hardware(devices=0)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA device"):
            train(network(), images, recipe=Recipe(epochs=1), hardware=Hardware(accelerator="cuda"))
