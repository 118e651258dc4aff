"""The head of a map and the classifiers behind it, apart from the network that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ExitHead"]


@final
class ExitHead(nn.Module):
    """What answers at all exits that hang on one map: trained alone, it needs only the map.

    Args:
        host: The node of the graph that the classifiers read.
        stages: Whose exits hang there, first to last.
        map_shape: Of what it reads: channels, rows and columns.
        convolution: Reads the map, reduced if it is large.
        mask: Of the convolution's weight.
        layers: From the convolution to what the classifiers read.
        classifiers: One for each stage.
        reads: For each stage ``(width,)``: 1 where its classifier may read, 0 elsewhere.
    """

    def __init__(
        self,
        *,
        host: int,
        stages: tuple[int, ...],
        map_shape: tuple[int, ...],
        convolution: nn.Module,
        mask: Tensor,
        layers: Sequence[nn.Module],
        classifiers: Sequence[nn.Module],
        reads: Sequence[Tensor],
    ) -> None:
        super().__init__()
        self._mask: Tensor
        self.host, self.stages, self.map_shape = host, stages, map_shape
        self.convolution = convolution
        self.layers = nn.ModuleList(layers)
        self.classifiers = nn.ModuleList(classifiers)
        self.register_buffer("_mask", mask, persistent=False)
        for place, read in enumerate(reads):
            self.register_buffer(f"_read_{place}", read, persistent=False)

    def forward(self, maps: Tensor) -> tuple[Tensor, ...]:
        """Answer at the exits.

        Args:
            maps: ``(images, *map_shape)`` float32, what ``MaskedNetwork.frozen_reads`` gives.

        Returns:
            The ``(images, classes)`` logits of each stage.
        """
        convolution = self.convolution
        assert isinstance(convolution, nn.Conv2d)
        x = convolution._conv_forward(maps, convolution.weight * self._mask, convolution.bias)
        for layer in self.layers:
            x = layer(x)
        answers = []
        for place, classifier in enumerate(self.classifiers):
            assert isinstance(classifier, nn.Linear)
            weight = classifier.weight * getattr(self, f"_read_{place}")
            answers.append(functional.linear(x, weight, classifier.bias))
        return tuple(answers)
