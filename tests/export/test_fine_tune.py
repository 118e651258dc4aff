"""A network that rounding to int8 harms is trained to stand it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp.errors import ExportError, ShapeError
from offramp_export import FineTuning, Preprocess, fine_tune
from offramp_export._edges import prepare_stages, run_stages, trace_edges
from offramp_export._fake_quantization import _round_activation, measure_ranges, quantized_run
from offramp_export.targets import LiteRT
from offramp_export.testing import contract_images, contract_stages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SPREAD = 200.0


class _Stage(nn.Module):
    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.preprocess = Preprocess()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.body = nn.Conv2d(8, 8, 3, 1, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.exit = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.first:
            # The bound is never met; without it the channels would be evened out.
            x = functional.hardtanh(self.stem(self.preprocess(x)), 0.0, 1e6)
        x = torch.relu(self.body(x)) if self.first else torch.relu(self.body(x) + x)
        logits = self.exit(self.pool(x).flatten(1))
        return (logits, x) if self.first else (logits,)


def _uneven() -> list[nn.Module]:
    """One channel is so much larger than its neighbours that int8 has few steps left for them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = [_Stage(first=True).eval(), _Stage(first=False).eval()]
    carry: tuple[Tensor, ...] = (torch.from_numpy(contract_images(64, 5).astype(np.float32)),)
    with torch.no_grad():
        for stage in stages:
            stage.exit.weight.mul_(20)
            stage.body.weight.mul_(2)
        first = stages[0]
        first.stem.weight.mul_(2)
        first.stem.weight[0].mul_(_SPREAD)
        assert first.stem.bias is not None
        first.stem.bias[0].mul_(_SPREAD)
        first.body.weight[:, 0].div_(_SPREAD)
        for stage in stages:
            logits, *carried = stage(*carry)
            # Every class has its share of the answers.
            stage.exit.bias.sub_(logits.mean(0))
            carry = tuple(carried)
    return list(stages)


def _agreement(stages: Sequence[nn.Module], labels: NDArray[np.int64]) -> float:
    """The share of pictures and exits to which the real int8 program gives these labels."""
    prepared = prepare_stages(stages)
    target = LiteRT("int8")
    carries = trace_edges(prepared, 16, 16).carries
    program = target.convert(prepared, carries, contract_images(100))
    logits = target.run(program, contract_images(200, 9))
    return float((logits.argmax(-1) == labels).mean())


def test_what_rounding_costs_is_won_back() -> None:
    stages = _uneven()
    before = [value.clone() for stage in stages for value in stage.state_dict().values()]
    images = torch.from_numpy(contract_images(200, 9).astype(np.float32))
    outputs = run_stages(prepare_stages(stages), images)
    reference = np.stack([output[0].argmax(1).numpy() for output in outputs])
    seen: list[tuple[int, int]] = []
    trained = fine_tune(
        stages,
        contract_images(256),
        FineTuning(epochs=10, learning_rate=1e-3),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 10) for done in range(11)]
    after = [value for stage in stages for value in stage.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    lost, kept = _agreement(stages, reference), _agreement(trained, reference)
    assert lost < 0.75
    assert kept > lost + 0.08


def test_the_roundings_are_those_of_the_program() -> None:
    stages = prepare_stages(contract_stages())
    images = contract_images(100)
    shown = contract_images(40, 3)
    image = torch.from_numpy(shown.astype(np.float32))
    exact = np.stack([output[0].numpy() for output in run_stages(stages, image)])
    with torch.no_grad():
        made = quantized_run(stages, measure_ranges(stages, images, 50), image)
    simulated = np.stack([logits.numpy() for logits in made])
    target = LiteRT("int8")
    real = target.run(target.convert(stages, trace_edges(stages, 16, 16).carries, images), shown)
    # The simulation is closer to the program than torch is, at every exit.
    for exit in range(3):
        assert np.abs(simulated[exit] - real[exit]).mean() < np.abs(exact[exit] - real[exit]).mean()


def test_an_activation_is_rounded_as_torch_does_it(rng: np.random.Generator) -> None:
    values = torch.from_numpy(rng.normal(0, 2, 4000).astype(np.float32))
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    low, high = -3.0, 4.5
    scale = (high - low) / 255
    made = _round_activation(ours, (low, high))
    wanted = torch.fake_quantize_per_tensor_affine(
        theirs, scale, round(-128 - low / scale), -128, 127
    )
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)
    weights = torch.from_numpy(rng.normal(size=4000).astype(np.float32))
    for rounded in (made, wanted):
        (rounded * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    assert bool((ours.grad == 0).any())


def test_the_same_seed_gives_the_same_weights() -> None:
    options = FineTuning(epochs=1, batch_size=16)
    one, other = (fine_tune(_uneven(), contract_images(32), options) for _ in range(2))
    for stage, again in zip(one, other, strict=True):
        weights, those = stage.state_dict(), again.state_dict()
        assert all(torch.equal(weights[name], those[name]) for name in weights)


def test_bad_input_is_said() -> None:
    with pytest.raises(ExportError, match="epochs is 0, expected a positive number"):
        FineTuning(epochs=0)
    with pytest.raises(ExportError, match="given 8 images, expected at least one batch of 32"):
        fine_tune(_uneven(), contract_images(8))
    with pytest.raises(ShapeError, match="images is float32"):
        fine_tune(_uneven(), contract_images(40).astype(np.float32))
    with pytest.raises(ExportError, match="diverged by epoch 2; lower the learning rate"):
        fine_tune(_uneven(), contract_images(64), FineTuning(learning_rate=1e30))
