"""Counts are those worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offramp_export.counting import Counted, count


class _Product(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.matmul(x, y)


def test_convolution() -> None:
    layer = nn.Conv2d(8, 16, 3, stride=2, padding=1)
    assert count(layer, [(1, 8, 10, 10)]) == Counted(5 * 5 * 16 * 8 * 9, 16 * 8 * 9 + 16)


def test_depthwise_convolution() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    assert count(layer, [(1, 8, 10, 10)]) == Counted(10 * 10 * 8 * 9, 8 * 9)


def test_linear_layer_and_product() -> None:
    assert count(nn.Linear(7, 5), [(1, 7)]) == Counted(35, 40)
    assert count(_Product(), [(2, 3), (3, 4)]) == Counted(24, 0)


def test_a_module_in_training_stays_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    network[2].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count(network, [(1, 3, 4, 4)])
    assert [module.training for module in network] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
