"""The second-order gradient of DARTS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = ["unrolled_gradients"]

_STEP = 0.01


def unrolled_gradients(
    weights: Sequence[Tensor],
    choices: Sequence[Tensor],
    optimizer: torch.optim.SGD,
    inner: Callable[[], Tensor],
    outer: Callable[[], Tensor],
) -> None:
    r"""Leave in ``grad`` of the choices the gradient through one step of the weights.

    .. math:: \nabla_\alpha L_R(w', \alpha) - \xi\,\frac{\nabla_\alpha L_L(w^+, \alpha) -
              \nabla_\alpha L_L(w^-, \alpha)}{2\epsilon}, \quad
              w^\pm = w \pm \epsilon \nabla_{w'} L_R(w', \alpha)

    with the step ``w'`` that the optimizer would take, momentum and weight decay included (Liu et
    al. 2019, arXiv 1806.09055, equations 7 and 8). The weights are left as they were.

    Args:
        weights: What the inner loss is minimised over.
        choices: What the outer loss is minimised over.
        optimizer: SGD for the weights.
        inner: The loss on one half of the images.
        outer: The loss on the other.
    """
    group = optimizer.param_groups[0]
    rate = group["lr"]
    before = [weight.detach().clone() for weight in weights]
    inner_gradients = _gradients(inner(), weights)
    with torch.no_grad():
        for weight, gradient in zip(weights, inner_gradients, strict=True):
            buffer = optimizer.state.get(weight, {}).get("momentum_buffer")
            step = gradient + group["weight_decay"] * weight
            if buffer is not None:
                step = step + group["momentum"] * buffer
            weight -= rate * step
    both = _gradients(outer(), [*choices, *weights])
    direct, through = both[: len(choices)], both[len(choices) :]
    norm = torch.sqrt(sum((part.square().sum() for part in through), torch.zeros(())))
    epsilon = float(_STEP / norm.clamp_min(1e-12))
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            for weight, start, part in zip(weights, before, through, strict=True):
                weight.copy_(start + sign * epsilon * part)
        sides.append(_gradients(inner(), choices))
    with torch.no_grad():
        for weight, start in zip(weights, before, strict=True):
            weight.copy_(start)
        for choice, part, after, earlier in zip(choices, direct, *sides, strict=True):
            choice.grad = part - rate * (after - earlier) / (2 * epsilon)


def _gradients(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(inputs), allow_unused=True)
    return [
        torch.zeros_like(part) if gradient is None else gradient
        for part, gradient in zip(inputs, found, strict=True)
    ]
