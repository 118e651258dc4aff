"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381)."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

__all__ = ["MobileNetV2"]

# Table 2: expansion, output channels, repeats, stride of the first.
_LAYOUT = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


@final
class _InvertedResidual(nn.Module):
    """Expand, filter each channel, project; beside a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [_convolution(inputs, hidden, 1, 1, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _convolution(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


@final
class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1.

    Args:
        num_classes: Classes to tell apart.
        small_images: Strides for images of up to 64 pixels: the first convolution and the first
            two strided blocks keep their size.
    """

    def __init__(self, num_classes: int, *, small_images: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 32, 3, 1 if small_images else 2, 1)]
        channels = 32
        for index, (expansion, outputs, repeats, stride) in enumerate(_LAYOUT):
            for repeat in range(repeats):
                first = stride if repeat == 0 and not (small_images and index < 2) else 1
                layers.append(_InvertedResidual(channels, outputs, first, expansion))
                channels = outputs
        layers.append(_convolution(channels, 1280, 1, 1, 1))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits
