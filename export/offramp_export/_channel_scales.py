"""The scales of channels with which rounding moves the logits least."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from offramp_export._channel_ties import FIXED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from offramp_export._channel_noise import ChannelNoise
    from offramp_export._channel_ties import ChannelTies

__all__ = ["choose_scales"]

_STEPS = 200
_RATE = 0.05  # of the logarithms of the scales
_LARGEST = 16.0
_ACTIVATION_STEPS, _WEIGHT_STEPS = 255, 127


def choose_scales(ties: ChannelTies, noise: ChannelNoise, least_gain: float) -> NDArray[np.float32]:
    """Scales of all classes of channels, ``(classes,)`` float32.

    A rounding to steps of size q has the variance q² / 12. In a channel of scale s the step of an
    activation is that of its tensor divided by s; the step of a weight that reads it is that of its
    output channel times s. Both are known for given scales, so the variance of the logits is too,
    and it is lowered along its gradient. Where that gains less than a share of it all scales are
    one: which way each number is rounded changes with them, and that is as likely to do harm.
    """
    roundings = _Roundings(ties, noise)
    logarithms = torch.zeros(roundings.classes, dtype=torch.float64, requires_grad=True)
    before = float(roundings.variance(torch.ones_like(logarithms.detach())))
    optimizer = torch.optim.Adam([logarithms], _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    bound = math.log(_LARGEST)
    for _ in range(_STEPS if before > 0 else 0):
        optimizer.zero_grad()
        roundings.variance(logarithms.exp()).log().backward()  # type: ignore[no-untyped-call]
        assert logarithms.grad is not None
        logarithms.grad[FIXED] = 0
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            logarithms.clamp_(-bound, bound)
    scales = logarithms.detach().exp()
    # What is not a number fails this too.
    gains = float(roundings.variance(scales)) < (1 - least_gain) * before
    return (scales if gains else torch.ones_like(scales)).float().numpy()


@final
class _Roundings:
    """The roundings of a stage, as a function of the scales of its channels."""

    def __init__(self, ties: ChannelTies, noise: ChannelNoise) -> None:
        known = [*ties.rounded.values()]
        for layer in ties.layers:
            known += [layer.read, layer.made]
        self.classes = 1 + max(int(each.max()) for each in known)
        self._activations = [
            tuple(map(torch.from_numpy, (ties.rounded[name], noise.bounds[name], share)))
            for name, share in noise.activations.items()
        ]
        self._weights = [
            tuple(map(torch.from_numpy, (layer.read, noise.largest[layer.weight], share)))
            for layer in ties.layers
            if (share := noise.weights.get(layer.weight)) is not None
        ]

    def variance(self, scales: Tensor) -> Tensor:
        """Of the logits of all exits together, as a share of what they vary."""
        total = torch.zeros((), dtype=torch.float64)
        for classes, bounds, share in self._activations:
            each = scales[classes]
            low, high = bounds * each
            step = (high.amax() - low.amin()) / _ACTIVATION_STEPS
            total = total + (share / each.square()).sum() * step.square() / 12
        for classes, largest, share in self._weights:
            each = scales[classes]
            steps = (largest / each).amax(1) / _WEIGHT_STEPS
            total = total + ((share * each.square()).sum(1) * steps.square()).sum() / 12
        return total
