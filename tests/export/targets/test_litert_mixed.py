"""Stages of one LiteRT program in different precisions; the contract holds for them as well."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp import DynamicClassifier
from offramp.bundle import Bundle, Policy
from offramp.errors import ExportError
from offramp_export import Preprocess, export
from offramp_export._edges import prepare_stages, run_stages, trace_edges
from offramp_export._litert.flatbuffer import read_model
from offramp_export._litert.tree import opcodes
from offramp_export.parity import compare
from offramp_export.targets import LiteRT
from offramp_export.testing import contract_images

if TYPE_CHECKING:
    from pathlib import Path


class _Shared(nn.Module):
    """A stage whose convolution is that of the other stages, too."""

    def __init__(self, layer: nn.Module, *, first: bool, last: bool) -> None:
        super().__init__()
        self.preprocess = Preprocess() if first else nn.Identity()
        self.widen = nn.Conv2d(3, 8, 1) if first else nn.Identity()
        self.layer = layer
        self.exit = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        self.last = last

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = torch.relu(self.layer(self.widen(self.preprocess(x))))
        return (self.exit(x),) if self.last else (self.exit(x), x)


def _stages() -> tuple[nn.Module, ...]:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layer = nn.Conv2d(8, 8, 3, padding=1)
        return prepare_stages([_Shared(layer, first=k == 0, last=k == 2) for k in range(3)])


def test_each_stage_computes_in_its_precision_and_the_reader_converts() -> None:
    """Also where stages of different precisions share one layer."""
    from ai_edge_litert import schema_py_generated as schema

    stages = _stages()
    carries = trace_edges(stages, 16, 16).carries
    target = LiteRT(("float32", "int8", "float32"))
    program = target.convert(stages, carries, contract_images(40, seed=1))
    (content,) = program.files.values()
    model = read_model(content)
    name = opcodes(model)
    kinds = schema.TensorType
    weights, converted = [], []
    for graph in model.subgraphs:
        used = [name(operator) for operator in graph.operators]
        place = max(place for place, operator in enumerate(used) if operator == "CONV_2D")
        weights.append(graph.tensors[graph.operators[place].inputs[1]].type)
        converted.append({"QUANTIZE", "DEQUANTIZE"}.intersection(used))
    assert weights == [kinds.FLOAT32, kinds.INT8, kinds.FLOAT32]
    # An image that leaves at the first exit pays for no conversion.
    assert converted == [set(), {"QUANTIZE"}, {"DEQUANTIZE"}]
    dtypes = [[tensor.dtype for tensor in stage.outputs] for stage in program.stages]
    assert dtypes == [["float32"] * 2, ["int8"] * 2, ["float32"]]
    for stage, following in pairwise(program.stages):
        assert stage.outputs[1:] == following.inputs

    images = contract_images(8)
    outputs = run_stages(stages, torch.from_numpy(images.astype(np.float32)))
    reference = np.stack([output[0].numpy() for output in outputs])
    got = target.run(program, images)
    parity = compare(target.name, got, reference, tolerance=target.tolerance)
    assert parity.exits[0].difference < 1e-5, "the float stage is as exact as in float32 alone"
    assert max(exit.difference for exit in parity.exits[1:]) < 0.05


def test_one_precision_per_stage() -> None:
    stages = _stages()
    carries = trace_edges(stages, 16, 16).carries
    with pytest.raises(
        ExportError, match=r"litert/float32,int8 has 2 precisions and the network 3 stages"
    ):
        LiteRT(("float32", "int8")).convert(stages, carries, contract_images(40))
    with pytest.raises(ExportError, match="litert/float32,int8,int8 was given 3 calibration"):
        LiteRT(("float32", "int8", "int8")).convert(stages, carries, contract_images(3))


def test_a_bundle_says_it_and_runs_it(branchy: list[nn.Module], tmp_path: Path) -> None:
    images: Any = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    made = export(
        branchy,
        images,
        [LiteRT("int8"), LiteRT(("int8", "float32"))],
        path=tmp_path / "bundle",
        labels=("ant", "bee", "cow"),
        calibration_images=images,
    )
    assert [parity.program for parity in made.parity] == ["litert/int8", "litert/int8,float32"]
    bundle = Bundle.open(tmp_path / "bundle")
    entry = bundle.program("litert/int8,float32")
    assert (entry.precision, entry.stage_precisions) == ("mixed", ("int8", "float32"))
    assert [file.path for file in entry.files] == ["litert/int8-float32.tflite"]
    recorded = bundle.vectors().logits
    np.testing.assert_array_equal(recorded["litert/int8"][0], recorded[entry.name][0])
    policy = Policy(
        name="default",
        program=entry.name,
        signal="max_probability",
        temperatures=(1.0, 1.0),
        thresholds=(1.0, 0.0),
        enabled=(True, True),
    )
    bundle.add_policy(policy)
    # The self-test of the first load compares all exits with what was recorded.
    with DynamicClassifier.load(tmp_path / "bundle", program=entry.name) as classifier:
        prediction = classifier.predict(images[0])
    assert prediction.exit == 1
    assert prediction.index == recorded[entry.name][1, 0].argmax()
