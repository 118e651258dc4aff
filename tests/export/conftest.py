"""Networks that the export tests share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from offramp_export import Preprocess


class _Branch(nn.Module):
    """One stage of an early-exit network as a user would write it, channel-first and normalised."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs))
        self.exit = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.body(x))
        return self.exit(x), x


class _First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.preprocess = Preprocess()
        self.branch = _Branch(3, 8)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = self.branch(self.preprocess(image))
        return result


class _Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = _Branch(8, 16)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.branch(x)[0],)


@pytest.fixture
def branchy() -> list[nn.Module]:
    """Two stages of plain torch modules, 8x8 images, three classes; in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [_First(), _Last()]
