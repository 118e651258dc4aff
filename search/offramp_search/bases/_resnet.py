"""CIFAR ResNets (He et al. 2015, arXiv 1512.03385, section 4.2) with parameter-free shortcuts."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CifarResNet"]


@final
class _BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut.

    Where the map shrinks the shortcut takes every second pixel and adds zero channels (option A).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.extra = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.extra:
            x = x[:, :, :: self.stride, :: self.stride]
            before = self.extra // 2
            x = functional.pad(x, (0, 0, 0, 0, before, self.extra - before))
        return functional.relu(out + x)


@final
class CifarResNet(nn.Module):
    """A residual network of ``6 * blocks + 2`` layers for small images.

    Args:
        blocks: Residual blocks for each of the three map sizes.
        num_classes: Classes to tell apart.
    """

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _layer(16, 16, blocks, 1)
        self.layer2 = _layer(16, 32, blocks, 2)
        self.layer3 = _layer(32, 64, blocks, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def _layer(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = _BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(_BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
