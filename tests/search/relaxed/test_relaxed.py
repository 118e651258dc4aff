from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn

from offramp.errors import DataError, ResumeError
from offramp_export.network import Preprocess
from offramp_search.data import ImageSet
from offramp_search.objectives import OBJECTIVES, Examples, make_objective
from offramp_search.relaxed import (
    AdditiveLatency,
    RelaxedObjectiveNetwork,
    RelaxedRecipe,
    by_probability,
    relax,
    unrolled_gradients,
)
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_DECISIONS = {
    "colour": CategoricalDistribution(("red", "green", "blue")),
    "side": CategoricalDistribution(("left", "right")),
}


@final
class Planted(nn.Module):
    """Sees one colour of one half of the image; green on the right tells the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2)
        nn.init.constant_(self.linear.weight, 0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, image: Tensor, probabilities: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        halves = torch.stack([image[:, :, :4].mean((1, 2)), image[:, :, 4:].mean((1, 2))], 1)
        seen = torch.einsum(
            "ihc,h,c->i", halves / 255 - 0.5, probabilities["side"], probabilities["colour"]
        )
        return (self.linear(4 * seen[:, None]),)


@pytest.fixture
def planted() -> ImageSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (128, 8, 8, 3))
    images[:, :, :, :] = rng.integers(20, 230, (128, 1, 1, 3))
    images[:, :, 4:] = rng.integers(20, 230, (128, 1, 1, 3))
    return ImageSet(images.astype(np.uint8), np.zeros(128, np.int64))


def ask(images: NDArray[np.float32], generator: np.random.Generator) -> Examples:
    return Examples(images, (images[:, 0, 7, 1] > 125).astype(np.int64))


RECIPE = RelaxedRecipe(
    epochs=12, batch_size=16, learning_rate=0.5, choice_learning_rate=0.05, frozen_epochs=1
)


def best(probabilities: Mapping[str, NDArray[np.float64]]) -> Mapping[str, Any]:
    return next(by_probability(_DECISIONS, probabilities))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_planted_choice_is_found(planted: ImageSet, order: Any, seed: int) -> None:
    recipe = RelaxedRecipe(
        epochs=12,
        batch_size=16,
        learning_rate=0.5,
        choice_learning_rate=0.05,
        frozen_epochs=1,
        order=order,
    )
    found = relax(Planted(), _DECISIONS, planted, transform=ask, recipe=recipe, seed=seed)
    assert best(found) == {"colour": "green", "side": "right"}
    assert found["colour"][1] > 0.6


def test_latency_moves_the_result(planted: ImageSet) -> None:
    latency = AdditiveLatency(
        1.0,
        {"colour": np.array([0.0, 20.0, 20.0]), "side": np.array([0.0, 0.0])},
        limit_ms=1.0,
        explained=1.0,
    )
    recipe = RelaxedRecipe(
        epochs=12,
        batch_size=16,
        learning_rate=0.5,
        choice_learning_rate=0.05,
        latency_weight=1.0,
    )
    found = relax(Planted(), _DECISIONS, planted, transform=ask, recipe=recipe, latency=latency)
    assert best(found)["colour"] == "red"


def test_a_killed_search_ends_as_if_it_had_not_been(planted: ImageSet, tmp_path: Path) -> None:
    whole = relax(Planted(), _DECISIONS, planted, transform=ask, recipe=RECIPE, seed=3)
    path = tmp_path / "relaxed.safetensors"

    class KilledError(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 30:
            raise KilledError

    arguments: dict[str, Any] = {
        "transform": ask,
        "recipe": RECIPE,
        "seed": 3,
        "checkpoint": path,
    }
    with pytest.raises(KilledError):
        relax(Planted(), _DECISIONS, planted, progress=kill, **arguments)
    steps: list[int] = []
    resumed = relax(
        Planted(),
        _DECISIONS,
        planted,
        progress=lambda done, total: steps.append(done),
        **arguments,
    )
    assert steps[0] == 29  # after seven whole epochs of four steps
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(ResumeError, match="another network, recipe"):
        relax(Planted(), _DECISIONS, planted, **{**arguments, "seed": 4})


def test_the_second_order_gradient_is_that_of_an_unrolled_step() -> None:
    weight = torch.tensor([0.3], requires_grad=True)
    choice = torch.tensor([0.7], requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    # L_L = (w a - 1)^2 and L_R = (w - 2)^2 + a; w' = w - 0.1 * 2 a (w a - 1).
    unrolled_gradients(
        [weight],
        [choice],
        optimizer,
        lambda: ((weight * choice - 1) ** 2).sum(),
        lambda: ((weight - 2) ** 2 + choice).sum(),
    )
    after = 0.3 - 0.1 * 2 * 0.7 * (0.3 * 0.7 - 1)
    through = -0.1 * (4 * 0.3 * 0.7 - 2) * 2 * (after - 2)
    assert choice.grad is not None
    assert float(choice.grad.detach()) == pytest.approx(1 + through, rel=1e-3)
    assert float(weight.detach()) == pytest.approx(0.3)


def test_architectures_come_by_probability() -> None:
    probabilities = {"colour": np.array([0.2, 0.5, 0.3]), "side": np.array([0.1, 0.9])}
    found = list(by_probability(_DECISIONS, probabilities))
    assert len({tuple(one.items()) for one in found}) == 6
    values = [
        probabilities["colour"][("red", "green", "blue").index(str(one["colour"]))]
        * probabilities["side"][("left", "right").index(str(one["side"]))]
        for one in found
    ]
    assert values == sorted(values, reverse=True)
    assert found[0] == {"colour": "green", "side": "right"}


def test_additive_latency_is_recovered() -> None:
    rng = np.random.default_rng(0)
    architectures = [
        {
            name: str(rng.choice([str(choice) for choice in kind.choices]))
            for name, kind in _DECISIONS.items()
        }
        for _ in range(60)
    ]
    cost = {"red": 1.0, "green": 2.0, "blue": 4.0, "left": 0.0, "right": 3.0}
    ms = [5 + sum(cost[choice] for choice in one.values()) for one in architectures]
    latency = AdditiveLatency.fit(_DECISIONS, architectures, ms, limit_ms=10)
    assert latency.explained > 0.99
    sure = {"colour": torch.tensor([0.0, 0.0, 1.0]), "side": torch.tensor([0.5, 0.5])}
    assert float(latency.share(sure)) == pytest.approx(1.05, abs=0.02)


def test_too_few_images_are_refused(planted: ImageSet) -> None:
    with pytest.raises(DataError, match="20 images do not fill a batch of 16"):
        relax(Planted(), _DECISIONS, planted.take(np.arange(20)), transform=ask, recipe=RECIPE)


@final
class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(8, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.bn1(self.conv1(image)).relu()
        x = (x + self.bn2(self.conv2(x))).relu()
        result: Tensor = self.linear(self.pool(self.depthwise(x)).flatten(1))
        return result


@pytest.fixture
def space() -> StaticTransform:
    torch.manual_seed(0)
    return StaticTransform(
        Base().eval(), image_shape=(16, 16), preprocess=Preprocess(), num_stages=2, groups=4
    )


def sure_of(space: StaticTransform, architecture: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: torch.tensor([float(choice == architecture[name]) for choice in kind.choices])
        for name, kind in space.decisions().items()
        if isinstance(kind, CategoricalDistribution)
    }


@pytest.mark.parametrize("maps", [False, True])
def test_a_sure_distribution_is_its_architecture(space: StaticTransform, maps: bool) -> None:
    architecture = space.width_architecture([0.5])
    relaxed = space.relaxed().eval()
    masked = space.masked().eval()
    masked.select(architecture)
    relaxed.relax(sure_of(space, architecture))
    batch = torch.rand(2, 16, 16, 3) * 255
    with torch.no_grad():
        for mixture, (place, read) in zip(
            relaxed.exit_mixtures(batch, maps=maps),
            masked.exit_reads(batch, maps=maps),
            strict=True,
        ):
            shares = {name: float(share) for name, share, _ in mixture}
            assert shares[place] == pytest.approx(1)
            assert sum(shares.values()) == pytest.approx(1)
            mixed = next(part for name, _, part in mixture if name == place)
            assert torch.allclose(mixed, read, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_decision_of_the_static_transform_has_a_gradient(
    space: StaticTransform, name: Any
) -> None:
    objective = make_objective(name, (16, 16))
    network = RelaxedObjectiveNetwork(space.relaxed(), objective)
    images = ImageSet(
        np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3)).astype(np.uint8),
        np.zeros(32, np.int64),
    )
    recipe = RelaxedRecipe(
        epochs=1, batch_size=8, frozen_epochs=0, choice_learning_rate=0.1, initial_spread=1e-9
    )
    found = relax(
        network,
        space.decisions(),
        images,
        transform=lambda batch, drawn: objective.transform(batch, drawn, train=True),
        recipe=recipe,
    )
    for name_, part in found.items():
        assert part.sum() == pytest.approx(1, abs=1e-6)
        assert np.ptp(part) > 1e-3, name_
