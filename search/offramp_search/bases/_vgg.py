"""VGG with batch norm (Simonyan and Zisserman 2014, arXiv 1409.1556), pooled before one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SMALL", "VGG16", "Vgg"]

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
SMALL = (64, "M", 128, "M", 256, 256)


@final
class Vgg(nn.Module):
    """3×3 convolutions, batch norms and max poolings in a row; one linear layer.

    The three linear layers of the original hold 120 M weights for 224×224 images; a global average
    in their place is what everybody uses at small sizes.

    Args:
        layout: Output channels of each convolution, ``"M"`` for a pooling.
        num_classes: Classes to tell apart.
    """

    def __init__(self, layout: Sequence[int | str], num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for entry in layout:
            if isinstance(entry, int):
                layers += [
                    nn.Conv2d(channels, entry, 3, padding=1, bias=False),
                    nn.BatchNorm2d(entry),
                    nn.ReLU(inplace=True),
                ]
                channels = entry
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits
