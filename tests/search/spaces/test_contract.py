from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from offramp_export.network import Preprocess
from offramp_search.bases import load_base
from offramp_search.spaces import Cell, Space, StaticTransform
from offramp_search.testing import SpaceContract

if TYPE_CHECKING:
    from offramp_search.spaces import Architecture


class TestCell(SpaceContract):
    def make_space(self) -> Space:
        return Cell(image_shape=(16, 16), num_classes=7, blocks=3, filters=8, levels=2)

    def refused(self) -> Architecture:
        return {**self.make_space().neutral(), "block_3_input_1": "block_2"}  # type: ignore[dict-item]


class TestStaticTransform(SpaceContract):
    heads, places = 0, 0

    def make_space(self) -> Space:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(5)
            base = load_base("vgg_small", num_classes=7, image_shape=(16, 16))
        return StaticTransform(
            base.module,
            image_shape=(16, 16),
            preprocess=Preprocess(),
            num_stages=2,
            exit_grid=4 if self.heads else 1,
            exit_head_channels=self.heads,
            exit_places=self.places,
        )

    def refused(self) -> Architecture:
        space = self.make_space()
        return {
            name: "end"
            if name.startswith("exit_")
            else max(kind.choices, key=lambda choice: int(str(choice).split("+")[-1]))  # type: ignore[attr-defined]
            for name, kind in space.decisions().items()
        }


class TestStaticTransformWithHeads(TestStaticTransform):
    heads, places = 8, 3

    def test_what_is_exported_has_a_head(self, space: Space) -> None:
        (architecture,) = self.draw(space, 1)
        names = [name for name, _ in self.built(space, architecture).stages[0].named_children()]
        assert any(name.endswith("_exit_conv") for name in names)

    def test_many_decisions_make_one_network(self, space: Space) -> None:
        drawn = self.draw(space, 200, seed=1)
        identities = {space.identity(architecture) for architecture in drawn}
        assert len(identities) < len({space.canonical(architecture) for architecture in drawn})
