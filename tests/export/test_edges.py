"""Stages that break the contract are refused with the stage and the fault."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from offramp.errors import ExportError
from offramp_export._edges import channel_last, export_stage, prepare_stages, trace_edges


class _Returns(nn.Module):
    def __init__(self, *shapes: tuple[int, ...], fill: float = 0.0) -> None:
        super().__init__()
        self.shapes = shapes
        self.fill = fill

    def forward(self, *carry: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.full(shape, self.fill) for shape in self.shapes)


class _Bare(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.mean((1, 2))


def test_shapes_are_those_of_the_carries(branchy: list[nn.Module]) -> None:
    edges = trace_edges(prepare_stages(branchy), 8, 8)
    assert edges.carries == (((1, 8, 8, 3),), ((1, 8, 4, 4),))
    assert edges.num_classes == 3


def test_preparing_leaves_the_originals_alone(branchy: list[nn.Module]) -> None:
    branchy[0].double()
    first, _ = prepare_stages(branchy)
    assert branchy[0].training
    assert next(branchy[0].parameters()).dtype == torch.float64
    assert not first.training
    assert next(first.parameters()).dtype == torch.float32


def test_shared_modules_stay_shared() -> None:
    shared = nn.Linear(2, 2)
    first, second = prepare_stages([nn.Sequential(shared), nn.Sequential(shared)])
    assert next(first.parameters()) is next(second.parameters())


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ([], "no stages"),
        ([_Bare()], "stage 0 returned Tensor; expected a tuple"),
        ([_Returns((1, 3), (1, 4, 2, 2))], "hands on 1 tensors that nobody reads"),
        ([_Returns((1, 3), (1, 4, 2, 2)), _Returns((1, 5))], "stage 1 answers with 5 classes"),
        ([_Returns((2, 3))], "stage 0 returned torch.float32 (2, 3) as its logits"),
        ([_Returns((1, 3), (1, 4, 2)), _Returns((1, 3))], "as its carry 0"),
        ([_Returns((1, 3)), _Returns((1, 3))], "stage 0 hands on nothing"),
        ([_Returns((1, 3), fill=float("nan"))], "not finite"),
        ([_Returns((1, 3), (1, 4, 2, 2)), nn.Conv2d(3, 3, 1)], "stage 1 (Conv2d) does not run"),
    ],
)
def test_broken_stages_are_refused(stages: list[nn.Module], sentence: str) -> None:
    with pytest.raises(ExportError) as caught:
        trace_edges(stages, 8, 8)
    assert sentence in str(caught.value)


def test_channel_last_moves_only_maps() -> None:
    assert channel_last((1, 8, 4, 5)) == (1, 4, 5, 8)
    assert channel_last((1, 8)) == (1, 8)


def test_weights_are_laid_out_as_the_converters_read_them() -> None:
    (stage,) = prepare_stages([nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)])  # type: ignore[call-overload]
    (weight, _) = stage.parameters()
    assert weight.is_contiguous()


class _Deciding(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image if image.sum() > 0 else -image


def test_a_stage_that_torch_cannot_export_is_named() -> None:
    exported = export_stage(_Bare().eval(), 0, [(1, 8, 8, 3)])
    (logits,) = exported.module()(torch.ones(1, 8, 8, 3)).tolist()
    assert logits == [1.0, 1.0, 1.0]
    with pytest.raises(ExportError, match=r"refused stage 1: (?s:.*); take what depends"):
        export_stage(_Deciding().eval(), 1, [(1, 8, 8, 3)])
