"""Concatenations of concatenations have one scale in a LiteRT int8 program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp_export import Preprocess
from offramp_export._edges import prepare_stages, trace_edges
from offramp_export._litert import quantize
from offramp_export._litert.flatbuffer import read_model
from offramp_export._litert.tree import opcodes, signature_trees
from offramp_export.targets import LiteRT
from offramp_export.testing import contract_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest


class _Block(nn.Module):
    """Appends what it finds to what it was given, four times, and a small part if asked."""

    def __init__(self, *, small: bool) -> None:
        super().__init__()
        self.preprocess = Preprocess()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(8 + 4 * n, 4, 3, padding=1) for n in range(4))
        for layer in self.layers:  # each adds larger values than the one before
            assert isinstance(layer, nn.Conv2d)
            nn.init.normal_(layer.weight, std=0.13)
        self.small = nn.Conv2d(8, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.exit = nn.Linear(32 if small else 24, 5)
        self.has_small = small

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = functional.relu(self.first(self.preprocess(image)))
        small = functional.relu(self.small(x)) / 64
        for layer in self.layers:
            x = torch.cat([x, functional.relu(layer(x))], 1)
        if self.has_small:
            x = torch.cat([x, small, torch.tanh(8 * small)], 1)
        return (self.exit(self.pool(x).flatten(1)),)


def _stages(*, small: bool) -> Sequence[nn.Module]:
    torch.manual_seed(0)
    return prepare_stages([_Block(small=small)])


def _convert(stages: Sequence[nn.Module]) -> bytes:
    carries = trace_edges(stages, 16, 16).carries
    (content,) = LiteRT("int8").convert(stages, carries, contract_images(60)).files.values()
    return content


def _joined(program: bytes) -> list[list[str]]:
    """Of each concatenation the operators that make its inputs."""
    model = read_model(program)
    name_of = opcodes(model)
    ((_, tree),) = signature_trees(model, ["stage_0"])
    return [
        [name_of(tree.maker(int(tensor))) for tensor in operator.inputs]
        for operator in tree.graph.operators
        if name_of(operator) == "CONCATENATION"
    ]


def test_a_chain_of_concatenations_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = _stages(small=False)
    chain = _joined(_convert(stages))
    assert chain == [["CONV_2D", "CONV_2D"], *(["CONCATENATION", "CONV_2D"] for _ in range(3))]

    monkeypatch.setattr(quantize, "share_joined_ranges", lambda *_: None)
    assert any("QUANTIZE" in makers for makers in _joined(_convert(stages)))


def test_a_small_tensor_that_others_read_keeps_its_steps() -> None:
    *chain, last = _joined(_convert(_stages(small=True)))
    assert not any("QUANTIZE" in makers for makers in chain)
    # The last is a hyperbolic tangent, which has a scale of its own.
    assert last == ["CONCATENATION", "CONV_2D", "QUANTIZE", "QUANTIZE"]
