"""Every objective keeps the contract that ships."""

from __future__ import annotations

from typing import final

from offramp_search.objectives import Colorization, Jigsaw, Rotation
from offramp_search.testing import ObjectiveContract


@final
class TestRotation(ObjectiveContract):
    def make_objective(self, image_shape: tuple[int, int]) -> Rotation:
        return Rotation(image_shape)


@final
class TestColorization(ObjectiveContract):
    def make_objective(self, image_shape: tuple[int, int]) -> Colorization:
        return Colorization(image_shape)


@final
class TestJigsaw(ObjectiveContract):
    def make_objective(self, image_shape: tuple[int, int]) -> Jigsaw:
        return Jigsaw(image_shape)


@final
class TestEnlargedJigsaw(ObjectiveContract):
    def make_objective(self, image_shape: tuple[int, int]) -> Jigsaw:
        return Jigsaw(image_shape, grid=3 if min(image_shape) > 32 else 2, network_shape=(16, 16))
