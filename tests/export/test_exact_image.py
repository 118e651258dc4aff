"""The normalisation of an image is split so that eight bits hold every pixel value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from offramp_export import Preprocess
from offramp_export._edges import prepare_stages, run_stages, trace_edges
from offramp_export._exact_image import split_normalization
from offramp_export._litert.flatbuffer import read_model
from offramp_export._litert.tree import opcodes
from offramp_export._preprocess import quantizable_preprocess
from offramp_export._usual_bounds import usual_bounds
from offramp_export.targets import ExecuTorch, LiteRT
from offramp_export.targets._executorch_image import keep_image_exact
from offramp_export.testing import contract_images

MEANS_AND_STDS = [
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ((0.3, 0.2, 0.25), (0.1, 0.2, 0.15)),
]


class _Stage(nn.Module):
    """Normalises, convolves over a padded border, and answers."""

    def __init__(self, stride: int = 1, *, shows_image: bool = False) -> None:
        super().__init__()
        self.preprocess = Preprocess()
        self.layer = nn.Conv2d(3, 8, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.exit = nn.Linear(8 * 16, 5)
        self.shows_image = shows_image

    def forward(self, image: Tensor) -> tuple[Tensor]:
        normalised = self.preprocess(image)
        x = torch.relu(self.norm(self.layer(normalised)))
        logits = self.exit(F.adaptive_avg_pool2d(x, 4).flatten(1))
        if self.shows_image:
            logits = logits + normalised.amax((1, 2, 3), keepdim=False)[:, None]
        return (logits,)


def _stages(stride: int = 1, *, shows_image: bool = False) -> tuple[nn.Module, ...]:
    torch.manual_seed(1)
    return prepare_stages([_Stage(stride, shows_image=shows_image)])


@pytest.mark.parametrize(("mean", "std"), MEANS_AND_STDS)
def test_two_convolutions_answer_as_the_normalised_one(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(6, 3, 3, 3)).astype(np.float32)
    preprocess = Preprocess(mean, std)
    exact = split_normalization(
        preprocess.scale.reshape(-1).numpy(), preprocess.offset.reshape(-1).numpy(), weights
    )
    assert exact is not None
    images = torch.from_numpy(contract_images(4, 16).astype(np.float32))
    channel_first = torch.from_numpy(weights).permute(0, 3, 1, 2)
    expected = F.conv2d(preprocess(images), channel_first, padding=1)
    first = torch.from_numpy(exact.weights).reshape(4, 3, 1, 1)
    four = F.conv2d(images.permute(0, 3, 1, 2), first, torch.from_numpy(exact.bias))
    # What eight bits make of it: a whole number of units.
    eight = (four / exact.unit).round() * exact.unit
    low, high = exact.bounds
    assert round((high - low) / exact.unit) == 255
    assert float(eight.min()) >= low
    assert float(eight.max()) <= high
    reader = torch.from_numpy(exact.reader_weights).permute(0, 3, 1, 2)
    np.testing.assert_allclose(
        F.conv2d(eight, reader, padding=1), expected, atol=1e-4 * float(expected.abs().max())
    )


def test_what_would_cost_precision_is_left_alone() -> None:
    weights = np.ones((2, 3, 3, 3), np.float32)
    scale, offset = np.full(3, 0.01, np.float32), np.array([-1.0, 0.0, 30.0], np.float32)
    assert split_normalization(scale, offset, weights) is None
    assert split_normalization(scale[:2], offset[:2], weights[..., :2]) is None


@pytest.mark.parametrize("stride", [1, 2])
def test_litert_keeps_every_pixel(stride: int) -> None:
    stages = _stages(stride)
    program = LiteRT("int8").convert(stages, [[(1, 16, 16, 3)]], contract_images(40))
    (content,) = program.files.values()
    model = read_model(content)
    (graph,) = model.subgraphs
    first = graph.operators[0]
    assert opcodes(model)(first) == "CONV_2D"
    made = graph.tensors[int(first.outputs[0])]
    assert made.shape[3] == 4
    assert float(made.quantization.scale[0]) == 2**-6
    assert _close(LiteRT("int8").run(program, contract_images(8, seed=3))[0], stages) < 0.02


def test_executorch_keeps_every_pixel() -> None:
    stages = _stages()
    target = ExecuTorch("int8")
    program = target.convert(stages, [[(1, 16, 16, 3)]], contract_images(40))
    assert _close(target.run(program, contract_images(8, seed=3))[0], stages) < 0.02
    exported = torch.export.export(
        quantizable_preprocess(stages[0]), (torch.zeros(1, 16, 16, 3),)
    ).module()
    exact = keep_image_exact(exported)
    assert exact is not None
    assert (exact.unit, exact.zero_point) == (2**-6, -14)
    images = torch.from_numpy(contract_images(1, seed=3).astype(np.float32))
    expected = run_stages(stages, images)[0][0]
    np.testing.assert_allclose(exported(images)[0].detach(), expected, atol=1e-3)


@pytest.mark.parametrize("target", [LiteRT("int8"), ExecuTorch("int8")], ids=["litert", "et"])
def test_an_image_that_others_read_as_well_is_left_as_it_is(target: LiteRT | ExecuTorch) -> None:
    stages = _stages(shows_image=True)
    carries = trace_edges(stages, 16, 16).carries
    program = target.convert(stages, carries, contract_images(40))
    assert _close(target.run(program, contract_images(8, seed=3))[0], stages) < 0.03


def _close(answers: np.ndarray[tuple[int, ...], np.dtype[np.float32]], stages: object) -> float:
    images = torch.from_numpy(contract_images(8, seed=3).astype(np.float32))
    expected = run_stages(stages, images)[0][0].numpy()  # type: ignore[arg-type]
    return float(np.abs(answers - expected).max() / np.abs(expected).max())


def test_the_oddest_image_of_a_hundred_is_left_out() -> None:
    largest = np.r_[np.linspace(1, 2, 199), 50.0]
    assert usual_bounds(np.zeros(200), largest, positions=64) == (0.0, 2.0)
    assert usual_bounds(-largest, np.full(200, -1.0), positions=0) == (-2.0, 0.0)
    assert usual_bounds(np.zeros(40), largest[-40:], positions=64) == (0.0, 50.0)
    assert usual_bounds(np.zeros(200), largest, positions=1) == (0.0, 50.0)


def test_what_is_not_a_number_stays_that() -> None:
    assert np.isnan(usual_bounds(np.zeros(300), np.r_[np.zeros(299), np.nan], positions=4)[1])
