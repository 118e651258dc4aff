"""The classifier of an exit, fitted to features that do not change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch.nn import functional

from offramp.errors import TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LinearExit", "fit_exit"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class LinearExit:
    """A linear classifier.

    Attributes:
        weight: ``(classes, width)`` float32.
        bias: ``(classes,)`` float32.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(images, width)`` -> ``(images, classes)``."""
        result: NDArray[np.float32] = features @ self.weight.T + self.bias
        return result


def fit_exit(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    classes: int,
    ridge: float = 1e-3,
    max_steps: int = 20,
    least_scale: float = 0.05,
) -> LinearExit:
    r"""Multinomial logistic regression with a quadratic penalty.

    .. math:: \min_{W, b} \frac1n \sum_i CE(W z_i + b, y_i) + \frac\rho2 \|W\|^2

    over features z brought to mean 0 and variance 1, or to less where one varies far less than the
    one that varies most: eight bits hardly tell its values apart, and a large weight would amplify
    their rounding. L-BFGS runs in coordinates in which the
    features, penalty included, are uncorrelated too: there the curvature at the start, an upper
    bound up to a constant everywhere (Böhning 1992), is the same in all directions, and a few
    steps are enough. The problem is convex and the start is zero, so the answer is a function of
    the arguments alone.

    Args:
        features: ``(images, width)``.
        labels: ``(images,)``, from 0 to ``classes - 1``; a class may be missing.
        classes: Outputs.
        ridge: The penalty rho.
        max_steps: Steps of L-BFGS at most.
        least_scale: A feature is divided by its standard deviation, but by no less than so much of
            the largest one.

    Raises:
        ValueError: The arrays do not fit together.
        TrainingError: A feature is not finite.
    """
    images, width = features.shape if features.ndim == 2 else (0, 0)
    if not images or labels.shape != (images,):
        raise ValueError(
            f"expected (images, width) features and as many labels, got {features.shape} and "
            f"{labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"expected labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}"
        )
    if not np.isfinite(features).all():
        raise TrainingError("its features are not finite; train it longer or more gently")
    z = torch.from_numpy(features).double()
    mean, scale = z.mean(0), z.std(0, correction=0)
    scale = scale.clamp_min(least_scale * float(scale.max()))
    scale = torch.where(scale > 0, scale, 1.0)  # a feature that never changes has no say
    z = (z - mean) / scale
    curvature = z.T @ z / images + classes * ridge * torch.eye(width, dtype=torch.float64)
    factor = torch.linalg.cholesky(curvature)
    white = torch.linalg.solve_triangular(factor, z.T, upper=False).T.contiguous()
    targets = torch.from_numpy(labels)

    rotated = torch.zeros(classes, width, dtype=torch.float64, requires_grad=True)
    bias = torch.full((classes,), -math.log(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [rotated, bias], max_iter=max_steps, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def unrotated() -> torch.Tensor:
        weight: torch.Tensor = torch.linalg.solve_triangular(factor.T, rotated.T, upper=True).T
        return weight

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(white @ rotated.T + bias, targets)
        loss = loss + ridge / 2 * unrotated().square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        weight = unrotated() / scale
        return LinearExit(weight.float().numpy(), (bias - weight @ mean).float().numpy())
