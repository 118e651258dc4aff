"""The joint loss against its formula, written out with numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from offramp_search.training import Recipe, joint_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def test_it_is_the_formula(rng: np.random.Generator) -> None:
    exits = [rng.normal(size=(5, 4)) for _ in range(2)]
    teacher = rng.normal(size=(5, 4))
    labels = rng.integers(0, 4, 5)
    recipe = Recipe(epochs=1, exit_weights=(0.5, 2.0), distill_alpha=0.3, distill_temperature=2.0)
    expected = 0.0
    for weight, logits in zip((0.5, 2.0), exits, strict=True):
        cross_entropy = -log_softmax(logits)[np.arange(5), labels].mean()
        target, answer = log_softmax(teacher / 2), log_softmax(logits / 2)
        divergence = (np.exp(target) * (target - answer)).sum(axis=1).mean()
        expected += weight * (0.7 * cross_entropy + 0.3 * 4 * divergence)
    got = joint_loss(
        [torch.tensor(logits) for logits in exits],
        torch.tensor(labels),
        recipe,
        torch.tensor(teacher),
    )
    assert float(got) == pytest.approx(expected, rel=1e-6)


def test_without_a_teacher_only_the_labels_count() -> None:
    logits = torch.tensor([[0.0, 0.0]])
    loss = joint_loss([logits, logits], torch.tensor([0]), Recipe(epochs=1, distill_alpha=1.0))
    assert float(loss) == pytest.approx(2 * np.log(2))


def test_weights_must_match_the_exits() -> None:
    recipe = Recipe(epochs=1, exit_weights=(1.0,))
    with pytest.raises(ValueError, match="weighs 1 exits, the network has 2"):
        joint_loss([torch.zeros(1, 2)] * 2, torch.tensor([0]), recipe)
