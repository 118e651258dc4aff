"""The normalisation of the image, in a form that int8 keeps exact."""

from __future__ import annotations

import copy
from typing import final

from torch import Tensor, nn

from offramp_export.network import Preprocess

__all__ = ["quantizable_preprocess"]


def quantizable_preprocess(stage: nn.Module) -> nn.Module:
    """A copy of stage 0 whose normalisation is one depthwise 1×1 convolution.

    A product and a sum are two int8 operators whose constants and results are rounded, with one
    scale for all three colours. The convolution has a weight scale per colour and a 32-bit bias, so
    only its result is rounded. On a ResNet-20 it halves the images that int8 answers differently
    from float32 (0.5 % against 1.1 % of 3,000 CIFAR-10 test images).
    """
    stage = copy.deepcopy(stage)
    if isinstance(stage, Preprocess):
        return _Depthwise(stage)
    for parent in list(stage.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Preprocess):
                setattr(parent, name, _Depthwise(child))
    return stage


@final
class _Depthwise(nn.Module):
    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        channels = preprocess.scale.numel()
        self.convolution = nn.Conv2d(channels, channels, 1, groups=channels)
        self.convolution.load_state_dict(
            {
                "weight": preprocess.scale.view(channels, 1, 1, 1),
                "bias": preprocess.offset.view(channels),
            }
        )
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.convolution(image.permute(0, 3, 1, 2))
        return result
