from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from offramp_export.network import Preprocess
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.distributions import CategoricalDistribution
    from torch import nn

BLOCK_ENDS = [
    *("end", "layer1_0_relu_2", "layer1_1_relu_2", "layer1_2_relu_2", "layer2_0_relu_2"),
    *("layer2_1_relu_2", "layer2_2_relu_2", "layer3_0_relu_2", "layer3_1_relu_2"),
]


@pytest.fixture(scope="module")
def make(make_base: Callable[[str], nn.Module]) -> Callable[..., StaticTransform]:
    def made(name: str = "resnet20", *, places: int, stages: int = 3) -> StaticTransform:
        return StaticTransform(
            make_base(name),
            image_shape=(16, 16),
            preprocess=Preprocess(),
            num_stages=stages,
            groups=4,
            tie=True,
            exit_places=places,
        )

    return made


def test_exits_of_a_resnet_may_hang_at_the_ends_of_its_blocks(
    make: Callable[..., StaticTransform],
) -> None:
    decisions = make(places=8).decisions()
    assert list(decisions)[:2] == ["exit_0", "exit_1"]
    kind: CategoricalDistribution = decisions["exit_0"]  # type: ignore[assignment]
    assert list(kind.choices) == BLOCK_ENDS
    few: CategoricalDistribution = make(places=2).decisions()["exit_1"]  # type: ignore[assignment]
    assert list(few.choices) == ["end", "layer1_2_relu_2", "layer2_2_relu_2"]
    assert "exit_0" not in make(places=0).decisions()


def test_nothing_after_its_place_is_in_the_stage_of_an_exit(
    make: Callable[..., StaticTransform],
) -> None:
    space = make(places=8)
    whole = space.static_architecture()
    early, late = (
        space.cost({**whole, "exit_0": first, "exit_1": "layer3_0_relu_2"})
        for first in ("layer1_0_relu_2", "layer2_1_relu_2")
    )
    assert sum(early) == pytest.approx(sum(late), rel=0.01)  # exits cost little
    assert early[0] / sum(early) == pytest.approx(1.2 / 9, abs=0.03)
    assert late[0] / sum(late) == pytest.approx(5 / 9, abs=0.03)
    assert early[2] == late[2]
    # The second exit hangs before the first: all of its stage is behind it.
    refused = space.refusal({**whole, "exit_0": "layer2_1_relu_2", "exit_1": "layer1_0_relu_2"})
    assert refused == "stage 1 computes nothing of its own"


def test_exits_at_different_depths_follow_the_shares(make: Callable[..., StaticTransform]) -> None:
    space = make(places=8)
    architecture = space.depth_architecture([0.25, 0.55])
    assert (architecture["exit_0"], architecture["exit_1"]) == (
        "layer1_1_relu_2",
        "layer2_1_relu_2",
    )
    with pytest.raises(ValueError, match="2 exits need as many places, there are 1"):
        make(places=1).depth_architecture([0.25, 0.55])


@pytest.mark.parametrize(("name", "places"), [("resnet20", 8), ("resnet20", 0), ("mobilenet", 3)])
def test_landmarks_are_different_networks(
    make: Callable[..., StaticTransform], name: str, places: int
) -> None:
    space = make(name, places=places, stages=2)
    landmarks = space.landmarks()
    assert all(space.refusal(one) is None for one in landmarks)
    assert len({space.canonical(one) for one in landmarks}) > 1
    shares = np.array([space.cost(one)[0] / sum(space.cost(one)) for one in landmarks])
    assert shares.max() > 0.5 > shares.min()


def test_what_cannot_be_is_refused(make: Callable[..., StaticTransform]) -> None:
    space = make(places=2)
    with pytest.raises(ValueError, match="'exit_0' has no choice 'nowhere'; one of its 3 choices"):
        space.refusal({**space.static_architecture(), "exit_0": "nowhere"})
    with pytest.raises(ValueError, match="places of exits cannot be mixed"):
        space.relaxed()
    with pytest.raises(ValueError, match="exit_places not negative, got 4, 1, 1 and -1"):
        make(places=-1)
