"""What is particular to LiteRT: the file's edges, and one scale for the life of a carry."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from offramp.bundle import Quantization
from offramp.errors import ExportError
from offramp_export._edges import prepare_stages, run_stages, trace_edges
from offramp_export._litert.flatbuffer import read_model, write_model
from offramp_export._litert.pooling import steps
from offramp_export._litert.tree import opcodes
from offramp_export._preprocess import quantizable_preprocess
from offramp_export.parity import compare, require_agreement
from offramp_export.targets import ConvertedProgram, LiteRT, parse_target
from offramp_export.testing import contract_images, contract_stages


class _Many(nn.Module):
    """Hands on more tensors than have one digit, none of them alike."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = image.permute(0, 3, 1, 2)
        pooled = torch.flatten(F.adaptive_avg_pool2d(maps, 1), 1)
        return pooled, *(pooled * (index + 1) for index in range(12)), maps


class _Passes(nn.Module):
    """Hands all of it on, unchanged and once more; reads one number."""

    def forward(self, *carry: Tensor) -> tuple[Tensor, ...]:
        return carry[11] - carry[1], *carry, carry[2]


class _Reads(nn.Module):
    def forward(self, *carry: Tensor) -> tuple[Tensor]:
        # The mean of the map is the first tensor; the others are multiples of it.
        mean = torch.flatten(F.adaptive_avg_pool2d(carry[12], 1), 1)
        return (carry[11] - carry[1] + carry[13] - mean,)


@pytest.mark.parametrize("precision", ["float32", "int8", "int16x8"])
def test_a_carry_keeps_its_order_and_scale_however_long(precision: str) -> None:
    stages = prepare_stages([_Many(), _Passes(), _Reads()])
    carries = trace_edges(stages, 16, 16).carries
    target = parse_target(f"litert/{precision}")
    program = target.convert(stages, carries, contract_images(30))
    images = contract_images(6, seed=2)
    mean = images.mean((1, 2), dtype=np.float32)
    got = target.run(program, images)
    # 12 x - 2 x, and 12 x - 2 x + 3 x - x.
    atol = 40.0 if precision == "int8" else 0.2 if precision == "int16x8" else 1e-2
    np.testing.assert_allclose(got[1], 10 * mean, atol=atol)
    np.testing.assert_allclose(got[2], 12 * mean, atol=atol)
    for stage, following in pairwise(program.stages):
        assert stage.outputs[1:] == following.inputs
    if precision != "float32":
        # A step is a pixel value, so the image is stored without any rounding.
        zero_point = -128 if precision == "int8" else 0
        image = Quantization(scale=1.0, zero_point=zero_point)
        assert program.stages[0].inputs[0].quantization == image
        scales = {tensor.quantization for tensor in program.stages[0].outputs[1:]}
        assert len(scales) > 6


class _Untidy(nn.Module):
    """Much that the converter leaves channel-first between transposes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = torch.relu(self.layer(image.permute(0, 3, 1, 2)))
        shortcut = F.pad(x[:, 1:7, ::2, 1::2], (1, 0, 0, 2, 0, 3))
        gated = torch.sigmoid(x) * x
        joined = torch.cat([gated, x, 2 * torch.tanh(x)], 1)
        return torch.flatten(self.pool(joined), 1), shortcut, joined.amax((2, 3)), gated, x


class _Ends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(9, 24, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, shortcut: Tensor, peaks: Tensor, gated: Tensor, x: Tensor) -> tuple[Tensor]:
        answer = torch.flatten(self.pool(self.layer(shortcut)), 1) + peaks
        return (answer + (gated - x).mean((1, 2, 3), keepdim=False).unsqueeze(1),)


def test_no_transpose_is_left_and_nothing_is_changed_by_it() -> None:
    stages = prepare_stages([_Untidy(), _Ends()])
    target = LiteRT()
    program = target.convert(stages, trace_edges(stages, 16, 16).carries, None)
    (content,) = program.files.values()
    model = read_model(content)
    name = opcodes(model)
    used = {name(operator) for graph in model.subgraphs for operator in graph.operators}
    assert {"CONV_2D", "STRIDED_SLICE", "PAD", "LOGISTIC", "CONCATENATION"} <= used
    assert "TRANSPOSE" not in used
    images = contract_images(3)
    outputs = run_stages(stages, torch.from_numpy(images.astype(np.float32)))
    reference = np.stack([output[0].numpy() for output in outputs])
    parity = compare("litert/float32", target.run(program, images), reference, tolerance=1e-5)
    require_agreement(parity)


class _Sorts(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (torch.linalg.eigvalsh(image[:, :3, :3, 0]),)


def test_an_operator_without_a_lowering_names_the_stage() -> None:
    stages = prepare_stages([_Sorts()])
    with pytest.raises(ExportError, match="refused stage_0"):
        LiteRT().convert(stages, [[(1, 16, 16, 3)]], None)


def test_options_are_checked() -> None:
    with pytest.raises(ExportError, match="no precision 'int4'"):
        LiteRT("int4")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="unknown target 'litert/int4'; expected one of litert"):
        parse_target("litert/int4")
    with pytest.raises(ExportError, match=r"no precision 'int4'; .* or a tuple with one for each"):
        parse_target("litert/int8,int4")
    with pytest.raises(ExportError, match=r"no precision \['int8', 'float32'\]"):
        LiteRT(["int8", "float32"])  # type: ignore[arg-type]
    mixed = parse_target("litert/int8,float32")
    assert (mixed.for_stage(0), mixed.for_stage(1)) == (LiteRT("int8"), LiteRT())
    with pytest.raises(ExportError, match="which are all alike; pass 'int8' alone"):
        LiteRT(("int8", "int8"))


def test_channels_last_weights_make_the_same_program() -> None:
    programs = []
    for layout in (torch.contiguous_format, torch.channels_last):
        stages = [stage.to(memory_format=layout) for stage in contract_stages()]  # type: ignore[call-overload]
        prepared = prepare_stages(stages)
        carries = trace_edges(prepared, 16, 16).carries
        programs.append(LiteRT().convert(prepared, carries, None).files)
    assert programs[0] == programs[1]


def test_with_activations_of_16_bits_only_the_weights_are_rounded() -> None:
    """Its answers are those of the float program with the very weights that it holds."""
    stages = prepare_stages(contract_stages())
    carries = trace_edges(stages, 16, 16).carries
    images = contract_images(12, seed=3)
    target = LiteRT("int16x8")
    program = target.convert(stages, carries, contract_images(40, seed=1))
    alike = [quantizable_preprocess(stages[0]), *stages[1:]]
    exact = LiteRT().convert(alike, carries, None)
    (path, content), (rounded,) = next(iter(exact.files.items())), program.files.values()
    model, answers = read_model(content), target.run(program, images)
    changed = _copy_weights(read_model(rounded), model)
    assert changed > 8
    close = replace(exact, files={path: write_model(model)})
    found = compare("rounded", answers, LiteRT().run(close, images), tolerance=1.0)
    unlike = compare("exact", answers, LiteRT().run(exact, images), tolerance=1.0)
    worst, other = (max(exit.difference for exit in parity.exits) for parity in (found, unlike))
    assert worst < 1e-3
    assert worst < other / 5


def _copy_weights(rounded: Any, exact: Any) -> int:
    """Put the int8 weights of one program, as numbers, into the float program; how many."""
    from ai_edge_litert import schema_py_generated as schema

    changed = 0
    for graph, float_graph in zip(rounded.subgraphs, exact.subgraphs, strict=True):
        floats = {tensor.name: tensor for tensor in float_graph.tensors}
        for tensor in graph.tensors:
            data = rounded.buffers[tensor.buffer].data
            if tensor.type != schema.TensorType.INT8 or data is None:
                continue
            into = exact.buffers[floats[tensor.name].buffer]
            scales = np.asarray(tensor.quantization.scale, np.float32)
            axis = tensor.quantization.quantizedDimension
            shape = [len(scales) if place == axis else 1 for place in range(len(tensor.shape))]
            stored = np.asarray(data, np.uint8).view(np.int8).reshape(tensor.shape)
            real = (stored * scales.reshape(shape)).astype(np.float32)
            assert real.nbytes == len(into.data)
            into.data = np.frombuffer(real.tobytes(), np.uint8)
            changed += 1
    return changed


def test_fewer_bits_are_fewer_bytes() -> None:
    stages = prepare_stages(contract_stages())
    carries = trace_edges(stages, 16, 16).carries
    float32, float16, dynamic = (
        len(next(iter(LiteRT(precision).convert(stages, carries, None).files.values())))
        for precision in ("float32", "float16", "dynamic_int8")
    )
    assert dynamic < float16 < float32
    weights = sum(parameter.numel() for stage in stages for parameter in stage.parameters())
    assert float32 - float16 > weights


def test_buffers_behind_the_flatbuffer_are_read_into_the_tree() -> None:
    """The quantiser leaves large ones there; their places are wrong after any edit."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers = 3, [], [schema.BufferT(), schema.BufferT()]
    model.buffers[1].offset, model.buffers[1].size = 1 << 20, 4  # as wide as the place will be
    place = len(write_model(model))
    model.buffers[1].offset = place
    data = write_model(model)
    assert len(data) == place
    inside, behind = read_model(data + b"\1\2\3\4").buffers
    assert inside.data is None
    assert behind.data.tobytes() == b"\1\2\3\4"
    assert (behind.offset, behind.size) == (0, 0)


class _Averages(nn.Module):
    """Averages that lie side by side, and some that overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.overlapping = nn.AvgPool2d(3, 1)
        self.grid = nn.AdaptiveAvgPool2d((7, 2))
        self.exit = nn.Linear(4 * 14, 5)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = torch.relu(self.layer(image.permute(0, 3, 1, 2) / 255))
        return (self.exit(self.grid(self.overlapping(x)).flatten(1)),)


def _in_int8(stages: tuple[nn.Module, ...]) -> tuple[LiteRT, ConvertedProgram, Any, Any]:
    """A target, its program of one stage, the graph, and what names an operator."""
    target = LiteRT("int8")
    program = target.convert(stages, [[(1, 16, 16, 3)]], contract_images(40))
    (content,) = program.files.values()
    model = read_model(content)
    (graph,) = model.subgraphs
    return target, program, graph, opcodes(model)


def _largest_error(
    target: LiteRT, program: ConvertedProgram, stages: tuple[nn.Module, ...]
) -> float:
    """Of the first exit's logits, as a share of the largest."""
    images = contract_images(8, seed=3)
    outputs = run_stages(stages, torch.from_numpy(images.astype(np.float32)))[0]
    expected = outputs[0].numpy()
    difference = np.abs(target.run(program, images)[0] - expected).max()
    return float(difference / np.abs(expected).max())


class _LargeWindows(nn.Module):
    """Averages over windows of eight by eight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.exit = nn.Linear(4 * 4, 5)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = torch.relu(self.layer(image.permute(0, 3, 1, 2) / 255))
        return (self.exit(F.adaptive_avg_pool2d(x, 2).flatten(1)),)


def test_large_averages_are_made_in_steps() -> None:
    torch.manual_seed(0)
    stages = prepare_stages([_LargeWindows()])
    target, program, graph, name_of = _in_int8(stages)
    pooling = [o for o in graph.operators if name_of(o) == "DEPTHWISE_CONV_2D"]
    windows = [tuple(graph.tensors[int(o.inputs[1])].shape[1:3]) for o in pooling]
    assert windows == [(4, 4), (2, 2)]
    assert _largest_error(target, program, stages) < 0.05


class _NormalizesFirst(nn.Module):
    """Normalisation, ReLU, convolution, in this order, over what was joined."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.convolution = nn.Conv2d(7, 4, 3, padding=1)
        self.last = nn.BatchNorm2d(7)
        self.exit = nn.Linear(7 * 16, 5)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = image.permute(0, 3, 1, 2) / 255
        joined = torch.cat([x, self.layer(x)], 1)
        made = self.convolution(torch.relu(self.norm(joined)))
        last = 2 - self.last(torch.cat([made, x], 1))
        return (self.exit(F.adaptive_avg_pool2d(last, 4).flatten(1)),)


def _normalizes_first() -> tuple[nn.Module, ...]:
    torch.manual_seed(0)
    stage = _NormalizesFirst()
    for norm in (stage.norm, stage.last):
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert values is not None
            nn.init.uniform_(values, 0.1, 3.0)
    return prepare_stages([stage])


def test_a_normalisation_of_its_own_rounds_once() -> None:
    stages = _normalizes_first()
    target, program, graph, name_of = _in_int8(stages)
    names = [name_of(operator) for operator in graph.operators]
    assert not {"SUB", "ADD"} & set(names)
    assert names.count("MUL") <= 1  # the image's own, which is one product alone
    # Two normalisations, and one pooling.
    assert names.count("DEPTHWISE_CONV_2D") == 3
    read = {int(tensor) for operator in graph.operators for tensor in operator.inputs}
    made = {int(tensor) for operator in graph.operators for tensor in operator.outputs}
    assert len(graph.tensors) == len(read | made)
    assert _largest_error(target, program, stages) < 0.03


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (4, 4, [(4, 4)]),
        (8, 8, [(4, 4), (2, 2)]),
        (32, 32, [(4, 4), (4, 4), (2, 2)]),
        (7, 7, [(1, 7), (7, 1)]),
        (1, 31, [(1, 31)]),  # a prime number of taps has no smaller equal parts
    ],
)
def test_steps_of_an_average(height: int, width: int, expected: list[tuple[int, int]]) -> None:
    assert steps(height, width) == expected


def test_averages_have_a_scale_of_their_own() -> None:
    torch.manual_seed(0)
    stages = prepare_stages([_Averages()])
    target, program, graph, name_of = _in_int8(stages)
    found = {name_of(operator): operator for operator in graph.operators}
    # The one that overlaps is left.
    assert [name_of(o) for o in graph.operators].count("AVERAGE_POOL_2D") == 1
    pooling = found["DEPTHWISE_CONV_2D"]
    read, made = (
        float(graph.tensors[int(tensor)].quantization.scale[0])
        for tensor in (pooling.inputs[0], pooling.outputs[0])
    )
    assert made < read
    assert _largest_error(target, program, stages) < 0.05
