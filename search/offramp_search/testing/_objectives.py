"""What every objective must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from offramp.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp_search.objectives import Objective

__all__ = ["ObjectiveContract"]

_CHANNELS = 5


class ObjectiveContract(ABC):
    """Say in a subclass how to make the objective, and pytest runs the contract."""

    @abstractmethod
    def make_objective(self, image_shape: tuple[int, int]) -> Objective:
        """An objective for images of a size."""

    @pytest.fixture(params=[(32, 32), (64, 64)], ids=["32", "64"])
    def image_shape(self, request: pytest.FixtureRequest) -> tuple[int, int]:
        """Sizes of images that every objective must take."""
        shape: tuple[int, int] = request.param
        return shape

    @pytest.fixture
    def objective(self, image_shape: tuple[int, int]) -> Objective:
        """The objective under test."""
        return self.make_objective(image_shape)

    @pytest.fixture
    def images(self, image_shape: tuple[int, int]) -> NDArray[np.float32]:
        """Six images of noise that is smooth enough to have a direction."""
        noise = np.random.default_rng(7).integers(0, 256, (6, *image_shape, 3))
        return (np.cumsum(noise, axis=1) / image_shape[0]).astype(np.float32)

    def test_a_task_has_as_many_answers_as_rows(
        self, objective: Objective, images: NDArray[np.float32]
    ) -> None:
        """What an exit reads is arranged into one row for each label."""
        task = objective.transform(images, np.random.default_rng(0), train=True)
        assert task.images.dtype == np.float32
        assert task.images.shape[-1] == 3
        assert np.isfinite(task.images).all()
        assert task.labels.dtype == np.int64
        assert task.labels.min() >= 0
        assert task.labels.max() < objective.classes
        size = (3, 3) if objective.reads_maps else ()
        rows = objective.arrange(torch.zeros(len(task.images), _CHANNELS, *size))
        assert rows.shape == (len(task.labels), objective.width(_CHANNELS))

    def test_equal_generators_make_equal_tasks(
        self, objective: Objective, images: NDArray[np.float32]
    ) -> None:
        """Nothing is drawn from anywhere else."""
        before = images.copy()
        first, second = (
            objective.transform(images, np.random.default_rng(3), train=True) for _ in range(2)
        )
        assert np.array_equal(first.images, second.images)
        assert np.array_equal(first.labels, second.labels)
        assert np.array_equal(images, before)

    def test_rows_keep_the_order_of_the_images(
        self, objective: Objective, images: NDArray[np.float32]
    ) -> None:
        """A batch is arranged as its images would be one by one."""
        shown = len(objective.transform(images[:1], np.random.default_rng(0), train=False).images)
        size = (3, 3) if objective.reads_maps else ()
        reads = torch.randn(2 * shown, _CHANNELS, *size, generator=torch.Generator().manual_seed(0))
        one_by_one = [objective.arrange(part) for part in torch.split(reads, shown)]
        assert torch.equal(objective.arrange(reads), torch.cat(one_by_one))

    def test_loss_and_score_agree(self, objective: Objective) -> None:
        """Sure and right answers cost nothing and count in full."""
        labels = np.arange(4, dtype=np.int64)
        logits = np.zeros((2, 4, objective.classes), np.float32)
        logits[1, np.arange(4), labels] = 100
        logits[0, :, -1] = 100
        assert objective.score(logits, labels)[1] == 1
        assert objective.score(logits, labels)[0] < 1
        sure, unsure = (
            objective.loss(torch.from_numpy(logits[exit_]), torch.from_numpy(labels))
            for exit_ in (1, 0)
        )
        assert float(sure) < 1e-3 < float(unsure)

    def test_the_task_depends_on_the_image(
        self, objective: Objective, images: NDArray[np.float32]
    ) -> None:
        """Another image is shown differently, by the same generator."""
        first, second = (
            objective.transform(part, np.random.default_rng(0), train=False)
            for part in (images[:1], images[1:2])
        )
        assert first.images.shape == second.images.shape
        assert not np.allclose(first.images, second.images)

    def test_images_too_small_are_refused(self) -> None:
        """In one sentence, before anything is trained."""
        with pytest.raises(DataError, match="7"):
            self.make_objective((7, 5))
