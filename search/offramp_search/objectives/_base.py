"""The interface of an objective: a task whose answers the images themselves hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Examples", "Objective"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What a network is shown, and what it should answer.

    Attributes:
        images: ``(shown, height, width, 3)`` float32, on the scale of 0 to 255. There may be more
            or fewer than images they were made of, and of another size.
        labels: ``(answers,)`` int64. There may be several answers to an image, or one to several.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


class Objective(ABC):
    """A task made of images without labels, asked at every exit of a network.

    An exit answers with one linear classifier on what it reads: ``transform`` makes the task of
    images, ``arrange`` brings what an exit reads into one row for each answer. How well a network
    can be trained for such a task ranks architectures much as labels do (Liu et al. 2020, arXiv
    2003.12056).

    Implementations are frozen dataclasses whose fields are exactly the legal options.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """As in ``offramp search --objective``."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """Answers to choose from."""

    @property
    @abstractmethod
    def reads_maps(self) -> bool:
        """Whether an exit reads the map before its pooling, not the pooled features."""

    @abstractmethod
    def transform(
        self, images: NDArray[np.float32], generator: np.random.Generator, *, train: bool
    ) -> Examples:
        """Make the task of a batch: a pure function of the images and the generator.

        Args:
            images: ``(images, height, width, 3)`` float32, RGB, 0 to 255.
            generator: What to draw from.
            train: Whether images may be changed to make the task harder to cheat at.
        """

    @abstractmethod
    def width(self, channels: int) -> int:
        """Length of a row that ``arrange`` makes of what an exit with so many channels reads."""

    @abstractmethod
    def arrange(self, read: Tensor) -> Tensor:
        """What an exit reads -> ``(answers, width)``, in the order of the labels.

        Args:
            read: ``(shown, channels)`` pooled features, or ``(shown, channels, rows, columns)``
                where the objective reads maps.
        """

    @final
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of one exit.

        Args:
            logits: ``(answers, classes)``.
            labels: ``(answers,)`` int64.
        """
        return functional.cross_entropy(logits, labels)

    @final
    def score(self, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, ...]:
        """Share of right answers of every exit, on images the network was not trained on.

        Args:
            logits: ``(exits, answers, classes)``.
            labels: ``(answers,)``.
        """
        return tuple(float(share) for share in np.mean(logits.argmax(-1) == labels, axis=-1))
