"""The scales of channels with which rounding moves the logits least."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from offramp_export._channel_ties import FIXED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp_export._channel_noise import ChannelNoise
    from offramp_export._channel_ties import ChannelTies

__all__ = ["choose_scales"]

_STEPS = 200
_RATE = 0.05  # of the logarithms of the scales
_LARGEST = 16.0
_ACTIVATION_STEPS, _WEIGHT_STEPS = 255, 127


def choose_scales(ties: ChannelTies, noise: ChannelNoise) -> NDArray[np.float32]:
    """Scales of all classes of channels, ``(classes,)`` float32.

    A rounding to steps of size q has the variance q² / 12. In a channel of scale s the step of an
    activation is that of its tensor divided by s; the step of a weight that reads it is that of its
    output channel times s. Both are known for given scales, so the variance of the logits is too,
    and it is lowered along its gradient.
    """
    layers = [layer for layer in ties.layers if layer.kind == "spread"]
    numbers = [*ties.rounded.values()]
    for layer in ties.layers:
        numbers += [layer.read, layer.made]
    logarithms = torch.zeros(1 + max(int(each.max()) for each in numbers), dtype=torch.float64)
    logarithms.requires_grad_(True)
    activations = [
        (torch.from_numpy(ties.rounded[name]), *map(torch.from_numpy, (noise.bounds[name], share)))
        for name, share in noise.activations.items()
    ]
    weights = [
        (torch.from_numpy(layer.read), *map(torch.from_numpy, (noise.largest[layer.weight], noise.weights[layer.weight])))
        for layer in layers
        if layer.weight in noise.weights and layer.read.any()
    ]
    if not activations:
        return np.ones(len(logarithms), np.float32)
    optimizer = torch.optim.Adam([logarithms], _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        scales = logarithms.exp()
        variance = torch.stack(
            [
                *(_of_activation(scales[places], bounds, share) for places, bounds, share in activations),
                *(_of_weight(scales[places], largest, share) for places, largest, share in weights),
            ]
        ).sum()
        optimizer.zero_grad()
        variance.clamp_min(1e-30).log().backward()  # type: ignore[no-untyped-call]
        logarithms.grad[FIXED] = 0
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            logarithms.clamp_(-math.log(_LARGEST), math.log(_LARGEST))
    return logarithms.detach().exp().float().numpy()


def _of_activation(scales: Tensor, bounds: Tensor, share: Tensor) -> Tensor:
    low, high = bounds * scales
    step = (high.amax() - low.amin()) / _ACTIVATION_STEPS
    return (share / scales.square()).sum() * step.square() / 12


def _of_weight(scales: Tensor, largest: Tensor, share: Tensor) -> Tensor:
    """``largest`` and ``share`` are ``(outputs, inputs)``."""
    step = (largest / scales).amax(1) / _WEIGHT_STEPS
    return ((share * scales.square()).sum(1) * step.square()).sum() / 12
