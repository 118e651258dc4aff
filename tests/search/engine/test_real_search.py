"""A search with real parts all the way: transform, shared weights, measured blocks, controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from offramp_export.network import Preprocess
from offramp_search.budget import Budget
from offramp_search.data import ImageSet
from offramp_search.devices import HostDevice, LatencyTable
from offramp_search.engine import search
from offramp_search.evaluators import SharedWeights
from offramp_search.samplers import ReinforceSampler
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from pathlib import Path


def test_a_static_transform_is_searched_on_this_machine(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    space = StaticTransform(
        base.eval(), image_shape=(12, 12), preprocess=Preprocess(), num_stages=2, groups=2
    )
    images = ImageSet(rng.integers(0, 256, (64, 12, 12, 3), dtype=np.uint8), rng.integers(0, 3, 64))
    table = LatencyTable(tmp_path / "latency", HostDevice(), runs=5)
    result = search(
        space,
        ReinforceSampler(0),
        SharedWeights(space.masked().eval(), train=images, search=images),
        table,
        Budget(worst_ms=1000.0),
        trials=3,
        folder=tmp_path / "search",
    )
    assert len(result.trials) == 3
    best = result.best
    stages = space.blocks(best.architecture)
    assert best.stage_ms == pytest.approx([latency.ms for latency in table.predict(stages)])
    assert best.size_bytes == 4 * sum(space.parameters(best.architecture))
    assert len(space.build(best.architecture).stages) == 2
