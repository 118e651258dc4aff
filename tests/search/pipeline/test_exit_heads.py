"""Heads are trained before the network that is found is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp_export.network import Preprocess
from offramp_search.bases import Base
from offramp_search.data import ImageSet, Splits
from offramp_search.pipeline import Reporter, Settings
from offramp_search.pipeline._context import Context
from offramp_search.pipeline._space import make_static_transform
from offramp_search.pipeline._supernet import static_network
from offramp_search.pipeline._train_steps import train_final
from offramp_search.training import Recipe, evaluate
from offramp_search.weights import save_weights

if TYPE_CHECKING:
    from pathlib import Path

    from offramp_export.network import MultiStageNetwork


def _split(count: int, seed: int) -> ImageSet:
    """Bright pixels two columns left or right of dark ones."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 130, (count, 8, 8, 3))
    labels = np.arange(count) % 2
    for image, label in zip(pixels, labels, strict=True):
        for _ in range(4):
            row, column = rng.integers(0, 8, 2)
            image[row, column], image[row, (column + 2 - 4 * label) % 8] = 255, 0
    return ImageSet(pixels.astype(np.uint8), labels)


def _base() -> Base:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layers = [
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        ]
        end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
        module = nn.Sequential(*layers, *end).eval()
    return Base(name="tiny", module=module, preprocess=Preprocess())


@pytest.mark.parametrize("channels", [0, 32])
def test_the_network_that_is_found_begins_with_trained_heads(tmp_path: Path, channels: int) -> None:
    splits = Splits(
        train=_split(1200, 0),
        search=_split(200, 1),
        calibration=_split(2, 2),
        test=_split(2, 3),
        labels=("left", "right"),
    )
    settings = Settings(
        source="none",
        groups=2,
        exit_head_channels=channels,
        # Nothing is learned after the exits were fitted.
        final_recipe=Recipe(epochs=1, batch_size=1200, learning_rate=1e-12),
    )
    context = Context(settings, tmp_path, Reporter(), splits)
    base = _base()
    space = make_static_transform(context, base, "concatenate")
    architecture = dict(zip(space.decisions(), ("2+0", "0+2"), strict=True))

    def found() -> MultiStageNetwork:
        masked = space.masked().eval()
        return train_final(context, space, masked, architecture, static_network(base))

    network = found()
    logits = evaluate(network, splits.search)
    accuracies = (logits.argmax(-1) == splits.search.labels).mean(1)
    heads = [name for name, _ in network.stages[0].named_children() if "_exit_conv" in name]
    if not channels:
        assert not heads
        assert accuracies[0] < 0.65
        return
    assert heads
    assert accuracies[0] > 0.75
    # It is kept, and not trained again.
    save_weights(network, tmp_path / "network.safetensors")
    again: Tensor = torch.from_numpy(evaluate(found(), splits.search))
    assert torch.equal(again, torch.from_numpy(logits))
