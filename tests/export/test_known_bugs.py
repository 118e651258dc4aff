"""Bugs of the converters that are worked around: each test fails when its bug is gone.

A failure is good news. Remove the workaround that the test names, and the test with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.errors import ExportError
from offramp_export._edges import prepare_stages
from offramp_export._litert.channel_last import ChannelLast
from offramp_export._litert.convert import Signature, convert_signatures
from offramp_export._litert.flatbuffer import mend, read_model, read_stages
from offramp_export._litert.quantize import quantize_signatures
from offramp_export._litert.tree import opcodes
from offramp_export._quiet import quiet
from offramp_export._require import require
from offramp_export.targets import CoreML, ExecuTorch
from offramp_export.testing import contract_images

if TYPE_CHECKING:
    from pathlib import Path


_NAME = "stage_1"


class _Hands(nn.Module):
    """Reads two of three inputs; hands one on, and one result twice, among many."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, vector: Tensor, maps: Tensor, unread: Tensor) -> tuple[Tensor, ...]:
        more = torch.relu(self.layer(maps))
        logits = more.mean((2, 3)) + vector
        twice = vector * 2
        return logits, vector, twice, twice, *(vector * (3 + place) for place in range(8))


@pytest.fixture(scope="module")
def converted() -> bytes:
    """The stage as LiteRT's converter leaves it."""
    (stage,) = prepare_stages([_Hands()])
    shapes = ((1, 6), (1, 8, 8, 4), (1, 3))
    return convert_signatures({_NAME: Signature(ChannelLast(stage), shapes)})


def test_litert_sorts_outputs_as_text(converted: bytes) -> None:
    """``_litert.flatbuffer.mend`` sorts them by number; compare tensorflow/tensorflow#33303."""
    (signature,) = read_model(converted).signatureDefs
    names = [entry.name.decode() for entry in signature.outputs]
    assert names.index("output_10") < names.index("output_2")


def test_litert_gives_outputs_no_tensor_of_their_own(converted: bytes) -> None:
    """``_litert.flatbuffer._separate_outputs`` copies them."""
    (signature,) = read_model(converted).signatureDefs
    outputs = {entry.name.decode(): entry.tensorIndex for entry in signature.outputs}
    inputs = {entry.name.decode(): entry.tensorIndex for entry in signature.inputs}
    assert outputs["output_1"] == inputs["args_0"]
    assert outputs["output_2"] == outputs["output_3"]


def test_litert_leaves_transposes_before_a_mean(converted: bytes) -> None:
    """``_litert.layout.drop_transposes`` moves them out."""
    model, mended = read_model(converted), read_model(mend(converted))
    for read, expected in ((model, True), (mended, False)):
        name = opcodes(read)
        used = {name(operator) for graph in read.subgraphs for operator in graph.operators}
        assert ("TRANSPOSE" in used) == expected
        assert "CONV_2D" in used


def test_the_litert_quantiser_leaves_an_unread_input_float(converted: bytes) -> None:
    """``_litert.flatbuffer.join_carries`` gives it the dtype of what is handed to it."""
    generator = np.random.default_rng(0)
    samples: Any = [
        tuple(
            generator.standard_normal(shape).astype(np.float32)
            for shape in ((1, 6), (1, 8, 8, 4), (1, 3))
        )
        for _ in range(2)
    ]
    (stage,) = read_stages(quantize_signatures(mend(converted), {_NAME: samples}), [_NAME])
    assert [tensor.dtype for tensor in stage.inputs] == ["int8", "int8", "float32"]


def test_executorch_reads_channels_last_memory_as_it_lies() -> None:
    """``targets._executorch_layout`` copies into plain memory; pytorch/executorch#21837."""
    with quiet():
        from executorch.exir import to_edge_transform_and_lower
        from executorch.runtime import Runtime

        plain = torch.arange(24.0).reshape(1, 3, 2, 4)
        exported = torch.export.export(nn.ReLU(), (plain,))
        content = to_edge_transform_and_lower(exported).to_executorch().buffer
        program = Runtime.get().load_program(bytes(content))
        method = program.load_method("forward")
        assert torch.equal(method.execute([plain])[0], plain)
        channels_last = plain.to(memory_format=torch.channels_last)
        assert torch.equal(channels_last, plain)
        # Equal tensors, unequal answers.
        assert not torch.equal(method.execute([channels_last])[0], plain)


class _ReadTwice(nn.Module):
    """One map is averaged, and read by what XNNPACK leaves, in torch's order."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.AvgPool2d(2)
        self.norm = nn.GroupNorm(2, 4)
        self.exit = nn.Linear(4, 5)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = torch.relu(self.first(image.permute(0, 3, 1, 2)))
        return (self.exit(self.norm(x).mean((2, 3)) + self.pool(x).mean((2, 3))),)


def test_executorch_transposes_a_dequantised_map_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """``targets._executorch_int8._separate_readers`` gives each reader a map of its own.

    pytorch/executorch#21637 mended the like in the pass's branch for dynamic ranges.
    """
    module = "offramp_export.targets._executorch"
    monkeypatch.setattr(f"{module}_int8._separate_readers", lambda graph: None)
    # Ranges do not matter here, and each image takes its time.
    monkeypatch.setattr(f"{module}.choose_calibration_images", lambda target, images: images)
    stages = prepare_stages([_ReadTwice()])
    images = contract_images(2)
    target = ExecuTorch("int8")
    broken = target.convert(stages, [[(1, 16, 16, 3)]], images)
    with pytest.raises(ExportError, match="converted stage 0 but cannot run it"):
        target.run(broken, images[:1])


def test_xnnpack_asks_one_rounded_image_for_its_memory_order() -> None:
    """``targets._executorch_layout.without_transposes`` asks the batch.

    One image has three axes and no order, so the map counts as channel-first.
    """
    require("torchao")
    with quiet():
        from executorch.backends.xnnpack._passes.channels_last_tagged_reshape_pass import (
            ChannelsLastTaggedReshapePass,
        )
        from executorch.exir.dialects._ops import ops

    rounding = ops.edge.quantized_decomposed
    scale = (0.1, 0, -128, 127, torch.int8)
    graph = torch.fx.Graph()
    given = graph.placeholder("given")
    given.meta["val"] = torch.zeros(1, 4, 6, 8).to(memory_format=torch.channels_last)
    given.meta["XNN_NHWC_NODE"] = True
    rounded = graph.call_function(rounding.quantize_per_tensor.default, (given, *scale))
    real = graph.call_function(rounding.dequantize_per_tensor.default, (rounded, *scale))
    assert ChannelsLastTaggedReshapePass.is_nhwc_node(given)
    assert not ChannelsLastTaggedReshapePass.is_nhwc_node(real)


class _Bounded(nn.Module):
    def __init__(self, bound: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.bound = bound

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.bound(self.layer(image.permute(0, 3, 1, 2))).mean((2, 3)),)


def test_the_xnnpack_quantiser_knows_no_bound_but_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    """``targets._executorch_clamp`` shows it a ReLU6 as a ReLU."""
    module = "offramp_export.targets._executorch"
    monkeypatch.setattr(f"{module}.choose_calibration_images", lambda target, images: images)
    monkeypatch.setattr(f"{module}_int8.pass_as_relu", lambda graph: None)
    roundings = []
    for bound in (nn.ReLU(), nn.ReLU6()):
        stages = prepare_stages([_Bounded(bound)])
        program = ExecuTorch("int8").convert(stages, [[(1, 16, 16, 3)]], contract_images(2))
        (found,) = program.delegation
        roundings.append(found.delegated["quantized_decomposed.quantize_per_tensor.default"])
    assert roundings[0] != roundings[1]


class _Passes(nn.Module):
    def forward(self, vector: Tensor) -> tuple[Tensor, ...]:
        doubled = vector * 2
        return doubled, vector, doubled


def test_coreml_gives_two_outputs_one_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``targets._coreml_outputs.separate_outputs`` names them; apple/coremltools#1887.

    And two packages of one stage differ, in ``Manifest.json``, which ``targets._coreml._stable``
    writes anew.
    """
    monkeypatch.setattr("offramp_export.targets._coreml.separate_outputs", lambda model: model)
    with quiet():
        import coremltools

        names, contents = [], []
        for place in ("one", "two"):
            model = CoreML("float32")._convert_stage(coremltools, _Passes().eval(), 1, [(1, 6)], [])
            names = [output.name for output in model.get_spec().description.output]
            path = tmp_path / f"{place}.mlpackage"
            model.save(str(path))
            contents.append((path / "Manifest.json").read_bytes())
    assert len(set(names)) < len(names)
    assert "input_0" in names
    assert contents[0] != contents[1]
