"""A fitted exit is the optimum of its objective, whatever the features look like."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import functional as autograd
from torch.nn import functional

from offramp.errors import TrainingError
from offramp_search.evaluators import LinearExit, fit_exit

CLASSES, WIDTH = 5, 12


@pytest.fixture
def data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, features of very different scales, two of them nearly equal."""
    labels = rng.integers(0, CLASSES, 600)
    features = rng.normal(size=(CLASSES, WIDTH))[labels] + 1.5 * rng.normal(size=(600, WIDTH))
    features[:, 1] = features[:, 0] + 1e-3 * features[:, 1]
    features = (features + 7) * 10.0 ** rng.uniform(-3, 3, WIDTH)
    return features.astype(np.float32), labels


def objective(fitted: LinearExit, features: np.ndarray, labels: np.ndarray, ridge: float) -> float:
    scaled = fitted.weight.astype(np.float64) * features.astype(np.float64).std(0)
    logits = features.astype(np.float64) @ fitted.weight.astype(np.float64).T + fitted.bias
    loss = functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    return float(loss) + ridge / 2 * float((scaled**2).sum())


@pytest.mark.parametrize("ridge", [1e-3, 1e-1])
def test_it_is_the_optimum(data: tuple[np.ndarray, np.ndarray], ridge: float) -> None:
    features, labels = data
    found = fit_exit(features, labels, classes=CLASSES, ridge=ridge, least_scale=0.0)
    # The same problem solved to the end, by plain Newton steps on a dense Hessian.
    z = torch.from_numpy(features).double()
    z = (z - z.mean(0)) / z.std(0, correction=0)
    z = torch.cat([z, torch.ones(len(z), 1, dtype=torch.float64)], 1)
    targets = torch.from_numpy(labels)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        weight = flat.view(CLASSES, WIDTH + 1)
        penalty = ridge / 2 * weight[:, :WIDTH].square().sum()
        # The biases may all move together; a whisper of a penalty pins them.
        pin = 1e-9 * weight[:, WIDTH].square().sum()
        return functional.cross_entropy(z @ weight.T, targets) + penalty + pin

    def gradient(flat: torch.Tensor) -> torch.Tensor:
        slope: torch.Tensor = autograd.jacobian(loss, flat)  # type: ignore[no-untyped-call]
        return slope

    flat = torch.zeros(CLASSES * (WIDTH + 1), dtype=torch.float64)
    for _ in range(12):
        curvature = autograd.hessian(loss, flat)  # type: ignore[no-untyped-call]
        flat = flat - torch.linalg.solve(curvature, gradient(flat))
    assert gradient(flat).abs().max() < 1e-9
    assert objective(found, features, labels, ridge) == pytest.approx(float(loss(flat)), rel=1e-3)


def test_it_repeats_itself_and_the_penalty_shrinks(data: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = data
    first, again = (fit_exit(features, labels, classes=CLASSES, least_scale=0.0) for _ in range(2))
    np.testing.assert_array_equal(first.weight, again.weight)
    np.testing.assert_array_equal(first.bias, again.bias)
    strong = fit_exit(features, labels, classes=CLASSES, ridge=10.0, least_scale=0.0)
    scale = features.std(0)
    assert np.abs(strong.weight * scale).max() < 0.1 * np.abs(first.weight * scale).max()
    assert first.weight.dtype == first.bias.dtype == np.float32


def test_dead_features_and_missing_classes_are_no_trouble(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 2, 200)
    features = np.zeros((200, 3), np.float32)
    features[:, 1] = labels
    fitted = fit_exit(features, labels, classes=4)
    logits = fitted.logits(features)
    assert logits.shape == (200, 4)
    assert logits.dtype == np.float32
    assert (logits.argmax(1) == labels).all()
    # As many features as images, and perfect separation: still finite.
    wide = rng.normal(size=(50, 80)).astype(np.float32)
    fitted = fit_exit(wide, labels[:50], classes=2)
    assert np.isfinite(fitted.weight).all()
    assert (fitted.logits(wide).argmax(1) == labels[:50]).all()


def test_features_that_hardly_vary_get_no_large_weight(rng: np.random.Generator) -> None:
    # What such a feature says is true, but eight bits of the common range cannot tell it.
    labels = rng.integers(0, 2, 400)
    features = rng.normal(size=(400, 4)).astype(np.float32)
    features[:, 0] += labels
    features[:, 3] = 1e-4 * (labels + 0.3 * rng.normal(size=400))
    exact = fit_exit(features, labels, classes=2, least_scale=0.0)
    gentle = fit_exit(features, labels, classes=2)
    step = np.ptp(features) / 255
    rounded = step * np.round(features / step)
    kept = [
        (one.logits(features).argmax(1) == one.logits(rounded).argmax(1)).mean()
        for one in (exact, gentle)
    ]
    assert kept[0] < 0.8
    assert kept[1] > 0.97
    assert (gentle.logits(features).argmax(1) == labels).mean() > 0.6


def test_what_cannot_be_fitted_is_refused(data: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = data
    with pytest.raises(ValueError, match=r"as many labels, got \(600, 12\) and \(599,\)"):
        fit_exit(features, labels[1:], classes=CLASSES)
    with pytest.raises(ValueError, match="from 0 to 3, got 0 to 4"):
        fit_exit(features, labels, classes=4)
    features = features.copy()
    features[3, 4] = np.nan
    with pytest.raises(TrainingError, match="not finite"):
        fit_exit(features, labels, classes=CLASSES)
