"""Architectures compared by an objective that needs no labels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import nn

from offramp_search.evaluators._base import Evaluator, Outputs
from offramp_search.evaluators._fit_exit import fit_exit
from offramp_search.evaluators._recalibrate import recalibrate, restored
from offramp_search.objectives import ObjectiveNetwork, arranged_reads
from offramp_search.training import Hardware, train

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from offramp_search.data import ImageSet
    from offramp_search.objectives import Examples, Objective, ReadableNetwork
    from offramp_search.spaces import Architecture
    from offramp_search.training import Recipe

__all__ = ["ObjectiveFineTune", "ObjectiveSharedWeights"]

_ANSWERS = 20_000


@final
class ObjectiveFineTune(Evaluator):
    """Every architecture is trained on its own, for an objective instead of labels.

    Args:
        network: Makes a network with the weights to start from; see ``StaticTransform.masked``. In
            it a selected architecture trains as the network that would be built of it.
        objective: What is asked at every exit.
        train: The training split; its labels are not looked at.
        search: The search-validation split; neither are these.
        recipe: How to train.
        answers: Answers to keep of each exit at most; where an image has many, they are drawn.
        batch_size: Images per forward pass when the network is trained.
        hardware: What to train on; ``None`` is one device.
    """

    def __init__(
        self,
        network: Callable[[], ReadableNetwork],
        objective: Objective,
        *,
        train: ImageSet,
        search: ImageSet,
        recipe: Recipe,
        answers: int = _ANSWERS,
        batch_size: int = 128,
        hardware: Hardware | None = None,
    ) -> None:
        self._make = network
        self._objective = objective
        self._train = train
        self._search = search
        self._recipe = recipe
        self._answers = answers
        self._batch_size = batch_size
        self._hardware = hardware or Hardware()

    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        """Outputs of every exit, one for each answer; the seed decides all that is drawn.

        Raises:
            TrainingError: The loss is no longer a finite number.
        """
        readable = self._make()
        readable.select(architecture)
        network = ObjectiveNetwork(readable, self._objective, seed=seed)
        train(
            network,
            self._train,
            recipe=self._recipe,
            seed=seed,
            transform=partial(self._objective.transform, train=True),
            hardware=self._hardware,
        )
        parts, labels = [], []
        drawn = np.random.default_rng([seed, 1])
        keep = self._answers / len(self._search)
        for batch in _batches(self._search.images, self._batch_size):
            task = self._objective.transform(batch, drawn, train=False)
            rows = _draw(task, len(batch), keep, drawn)
            with torch.inference_mode():
                answered = network(torch.from_numpy(task.images))
            parts.append(np.stack([exit_.float().numpy()[rows] for exit_ in answered]))
            labels.append(task.labels[rows])
        return Outputs(np.concatenate(parts, axis=1), np.concatenate(labels))


@final
class ObjectiveSharedWeights(Evaluator):
    """Selects the architecture in a network of shared weights trained for an objective.

    As with labels, batch normalisation and the classifier of every exit are made anew for each
    architecture. The classifier is the multinomial logistic regression that labels use, for every
    objective: in a jigsaw it reads the features of all tiles, in colorization those of single
    cells, some of each image. (Ridge regression on the colour itself would be cheaper, but has no
    confidence to leave by.)

    Args:
        network: A ``torch.nn.Module``, trained for the objective.
        objective: What is asked at every exit.
        train: Where images for statistics and classifiers are drawn from; labels are not looked at.
        search: The search-validation split; neither are these.
        recalibration_images: How many are drawn for the statistics.
        fitting_images: How many are drawn for the classifiers.
        answers: Answers to keep of each exit at most, and to fit on.
        batch_size: Images per forward pass.
    """

    def __init__(
        self,
        network: ReadableNetwork,
        objective: Objective,
        *,
        train: ImageSet,
        search: ImageSet,
        recalibration_images: int = 512,
        fitting_images: int = 1_500,
        answers: int = _ANSWERS,
        batch_size: int = 128,
    ) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"expected a torch.nn.Module, got a {type(network).__name__}")
        if min(recalibration_images, fitting_images, answers, batch_size) < 1:
            raise ValueError(
                "recalibration_images, fitting_images, answers and batch_size must be at least 1, "
                f"got {recalibration_images}, {fitting_images}, {answers} and {batch_size}"
            )
        self._network = network
        self._module: nn.Module = network
        self._objective = objective
        self._train = train
        self._search = search
        self._recalibration_images = min(recalibration_images, len(train))
        self._fitting_images = min(fitting_images, len(train))
        self._answers = answers
        self._batch_size = batch_size

    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        """Outputs of every exit, one for each answer; the seed decides all that is drawn.

        Raises:
            TrainingError: The features of an exit are not finite.
        """
        drawn = np.random.default_rng(seed)
        order = drawn.permutation(len(self._train))
        self._network.select(architecture)
        with restored(self._module):
            rows = np.sort(order[: self._recalibration_images])
            shown = self._objective.transform(
                self._train.images[rows].astype(np.float32), drawn, train=False
            )
            reader = _Reader(self._network, self._objective)
            recalibrate(reader, shown.images, batch_size=self._batch_size)
            fitting = self._train.images[np.sort(order[: self._fitting_images])]
            features, targets = self._read(fitting, drawn)
            # The same answers for every architecture.
            asked, labels = self._read(self._search.images, np.random.default_rng([seed, 1]))
        logits = [
            fit_exit(known, targets, classes=self._objective.classes).logits(unknown)
            for known, unknown in zip(features, asked, strict=True)
        ]
        return Outputs(np.stack(logits), labels)

    def _read(
        self, images: NDArray[np.uint8], drawn: np.random.Generator
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
        """What every exit reads for some answers of every image, and the right ones."""
        keep = self._answers / len(images)
        parts, labels = [], []
        for batch in _batches(images, self._batch_size):
            task = self._objective.transform(batch, drawn, train=False)
            rows = _draw(task, len(batch), keep, drawn)
            with torch.inference_mode():
                reads = arranged_reads(
                    self._network, self._objective, torch.from_numpy(task.images)
                )
            parts.append([read[torch.from_numpy(rows)].numpy() for read in reads])
            labels.append(task.labels[rows])
        return [np.concatenate(part) for part in zip(*parts, strict=True)], np.concatenate(labels)


@final
class _Reader(nn.Module):
    """What recalibration runs: the network up to its exits."""

    def __init__(self, network: ReadableNetwork, objective: Objective) -> None:
        super().__init__()
        assert isinstance(network, nn.Module)
        self.network = network
        self._maps = objective.reads_maps

    def forward(self, image: torch.Tensor) -> None:
        self.network.exit_reads(image, maps=self._maps)


def _batches(images: NDArray[np.uint8], size: int) -> list[NDArray[np.float32]]:
    starts = range(0, len(images), size)
    return [images[start : start + size].astype(np.float32) for start in starts]


def _draw(
    task: Examples, images: int, keep: float, drawn: np.random.Generator
) -> NDArray[np.integer]:
    """Which answers to keep: all, or so many of every image on average."""
    count = len(task.labels)
    wanted = min(count, max(1, round(keep * images)))
    return np.sort(drawn.permutation(count)[:wanted])
