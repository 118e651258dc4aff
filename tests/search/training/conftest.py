"""A tiny multi-stage network and images it can learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp_export.network import MultiStageNetwork, Preprocess
from offramp_search.data import ImageSet


class TinyStage(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, first: bool, last: bool) -> None:
        super().__init__()
        self.before: nn.Module = Preprocess() if first else nn.Identity()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 3))
        self.last = last

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        carry = self.body(self.before(x))
        logits = self.head(carry)
        return (logits,) if self.last else (logits, carry)


def tiny_network(seed: int = 0, stages: int = 2) -> MultiStageNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MultiStageNetwork(
            TinyStage(3 if index == 0 else 8, 8, first=index == 0, last=index == stages - 1)
            for index in range(stages)
        )


@pytest.fixture
def network() -> MultiStageNetwork:
    return tiny_network()


@pytest.fixture
def images() -> ImageSet:
    """Three classes: one colour channel is bright."""
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 3, 192)
    pixels = generator.integers(0, 120, (192, 8, 8, 3))
    pixels[np.arange(192), :, :, labels] += 80
    return ImageSet(pixels.astype(np.uint8), labels.astype(np.int64))
