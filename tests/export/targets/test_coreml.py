"""The evaluator of saved Core ML packages, operator by operator, against torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from offramp.errors import ExportError
from offramp_export._edges import prepare_stages, run_stages, trace_edges
from offramp_export._quiet import quiet
from offramp_export.parity import compare, require_agreement
from offramp_export.targets import CoreML, parse_target
from offramp_export.testing import contract_images, contract_stages

if TYPE_CHECKING:
    from collections.abc import Callable


class _One(nn.Module):
    """A stage that is one function of channel-first maps between -1 and 1."""

    def __init__(self, function: Callable[[Tensor], Tensor], layer: nn.Module | None) -> None:
        super().__init__()
        self.function = function
        self.layer = layer

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = image.permute(0, 3, 1, 2) / 127.5 - 1
        return (torch.flatten(self.function(x if self.layer is None else self.layer(x)), 1),)


def _same(x: Tensor) -> Tensor:
    return x


CASES: dict[str, tuple[Callable[[Tensor], Tensor], nn.Module | None]] = {
    "uneven padding": (lambda x: F.pad(x, (1, 0, 2, 1), value=0.5), None),
    "reflected padding": (lambda x: F.pad(x, (2, 1, 1, 2), mode="reflect"), None),
    "strided, dilated, grouped": (_same, nn.Conv2d(3, 6, 3, 2, 2, dilation=2, groups=3)),
    "max pool": (lambda x: F.max_pool2d(x, 3, 2, 1), None),
    "max pool, rounded up": (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), None),
    "average pool, padding counted": (lambda x: F.avg_pool2d(x, 3, 2, 1), None),
    "average pool, padding left out": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        None,
    ),
    "activations": (
        lambda x: torch.cat([F.relu6(x * 9), F.silu(x), F.gelu(x), torch.tanh(x)], 1),
        None,
    ),
    "hard activations": (
        lambda x: torch.cat([F.hardswish(4 * x), F.hardsigmoid(4 * x), F.leaky_relu(x, 0.1)], 1),
        None,
    ),
    "arithmetic": (lambda x: torch.cat([x.abs(), (x * x + 1).sqrt(), -x / 3], 1), None),
    "slices": (lambda x: torch.cat([x[:, 1:, ::2, 3:9], x[:, :2, 8:, -6:]], 1), None),
    "chunks": (lambda x: x.chunk(3, 1)[2] - x.chunk(3, 1)[0] / (x[:, 1:2] + 3), None),
    "softmax": (lambda x: torch.softmax(3 * x.mean((2, 3)), 1), None),
    "shuffle": (
        lambda x: x.reshape(1, 3, 2, 8, 16).permute(0, 2, 1, 3, 4).reshape(1, 6, 8, 16),
        None,
    ),
    "normalisation": (_same, nn.BatchNorm2d(3)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_evaluator_computes_as_torch_does(name: str) -> None:
    function, layer = CASES[name]
    stages = prepare_stages([_One(function, layer)])
    target = CoreML()
    program = target.convert(stages, [[(1, 16, 16, 3)]], None)
    images = contract_images(3)
    with torch.no_grad():
        expected = np.stack(
            [
                stages[0](torch.from_numpy(image[None].astype(np.float32)))[0].numpy()[0]
                for image in images
            ]
        )[None]
    parity = compare("coreml/float16", target.run(program, images), expected, tolerance=4e-3)
    require_agreement(parity)
    assert parity.exits[0].difference > 0, "float16 leaves a trace, or it was not float16"


def test_an_unknown_operator_is_named() -> None:
    stages = prepare_stages([_One(lambda x: torch.cumsum(x.mean(2), 2), None)])
    program = CoreML().convert(stages, [[(1, 16, 16, 3)]], None)
    with pytest.raises(ExportError, match="cannot prove a program with cumsum"):
        CoreML().run(program, contract_images(1))


def test_an_unknown_system_is_refused() -> None:
    with pytest.raises(ExportError, match="no deployment target 'iOS12'"):
        CoreML(deployment_target="iOS12")  # type: ignore[arg-type]


def test_fewer_bits_are_fewer_bytes() -> None:
    stages = prepare_stages([_One(_same, nn.Conv2d(3, 64, 16))])
    sizes = {}
    for precision in ("float16", "weight_int8", "palette4"):
        target = parse_target(f"coreml/{precision}")
        files = target.convert(stages, [[(1, 16, 16, 3)]], None).files
        assert all(path.startswith(f"coreml/{precision}.mlpackage/") for path in files)
        sizes[precision] = sum(map(len, files.values()))
    weights = 64 * 3 * 16 * 16
    assert sizes["float16"] - sizes["weight_int8"] == pytest.approx(weights, rel=0.1)
    assert sizes["weight_int8"] - sizes["palette4"] == pytest.approx(weights / 2, rel=0.1)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ExportError, match="no precision 'int4' here; expected one of 'float32'"):
        CoreML("int4")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="int8 activations from iOS 17 on"):
        CoreML("int8", "iOS16")


@pytest.mark.parametrize("precision", ["float16", "float32", "weight_int8", "palette8", "int8"])
def test_every_output_has_a_name_of_its_own(precision: str) -> None:
    stages = prepare_stages(contract_stages())
    carries = trace_edges(stages, 16, 16).carries
    target = parse_target(f"coreml/{precision}@iOS17")
    program = target.convert(stages, carries, contract_images(20))
    content = program.files[
        f"coreml/{precision}_stage_1.mlpackage/Data/com.apple.CoreML/model.mlmodel"
    ]
    with quiet():  # it warns of what it does not find
        import coremltools

    spec = coremltools.proto.Model_pb2.Model.FromString(content)
    names = [output.name for output in spec.description.output]
    assert names == [f"output_{place}" for place in range(8)]
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    assert list(block.outputs) == names


def test_int8_computes_in_int8_with_ranges_over_all_images() -> None:
    stages = prepare_stages(contract_stages())
    carries = trace_edges(stages, 16, 16).carries
    # The last picture is black: its ranges are not those of the others.
    images = np.concatenate([contract_images(39), np.zeros((1, 16, 16, 3), np.uint8)])
    program = CoreML("int8").convert(stages, carries, images)
    with quiet():  # it warns of what it does not find
        import coremltools

    spec = coremltools.proto.Model_pb2.Model.FromString(
        program.files["coreml/int8.mlpackage/Data/com.apple.CoreML/model.mlmodel"]
    )
    for function in spec.mlProgram.functions.values():
        (block,) = function.block_specializations.values()
        makers = {made.outputs[0].name: made for made in block.operations}
        for operation in block.operations:
            if operation.type == "conv":
                (argument,) = operation.inputs["x"].arguments
                assert makers[argument.name].type == "dequantize"
    reference = np.stack(
        [
            output[0].numpy()
            for output in run_stages(stages, torch.from_numpy(images[:20].astype(np.float32)))
        ]
    )
    parity = compare(
        "coreml/int8", CoreML("int8").run(program, images[:20]), reference, tolerance=0.1
    )
    require_agreement(parity)
