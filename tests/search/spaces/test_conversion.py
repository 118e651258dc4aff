"""What the static transform builds goes through the real converters and runtimes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp.runtimes import open_runtime
from offramp_export import export
from offramp_export.blocks import convert_blocks
from offramp_export.targets import CoreML, ExecuTorch, LiteRT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from offramp_search.spaces import Architecture, StaticTransform


def _operators(program: bytes) -> Counter[str]:
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(program), 0))
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    return Counter(names[codes[o.opcodeIndex]] for g in model.subgraphs for o in g.operators)


def _shapes(program: bytes) -> list[tuple[int, ...]]:
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(program), 0))
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    return [() if tensor.shape is None else tuple(tensor.shape) for tensor in tensors]


@pytest.mark.parametrize("name", ["vgg_small", "mobilenet", "densenet+sum"])
def test_random_stages_convert_to_all_formats_and_agree(
    name: str,
    make_space: Callable[..., StaticTransform],
    draw: Callable[[StaticTransform, np.random.Generator], Architecture],
    rng: np.random.Generator,
    tmp_path: Path,
) -> None:
    space = make_space(name, 2)
    network = space.build(draw(space, rng))
    images = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    # The export itself compares every exit with torch, and raises where they differ.
    result = export(
        list(network.stages),
        images,
        [LiteRT(), ExecuTorch(), CoreML()],
        path=tmp_path / "bundle",
        labels=[str(i) for i in range(7)],
    )
    (file,) = (result.bundle.path / "litert").glob("*.tflite")
    operators = _operators(file.read_bytes())
    assert operators["CONV_2D"] > 0
    assert not {"GATHER", "GATHER_ND", "SELECT", "SELECT_V2"} & operators.keys()


def test_a_sum_answers_as_a_concatenation_does_and_has_no_more_operators_than_it_needs(
    make_space: Callable[..., StaticTransform], rng: np.random.Generator, tmp_path: Path
) -> None:
    images = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    answers, operators = [], []
    for name in ("resnet20", "resnet20+sum"):
        space = make_space(name, 2)
        result = export(
            list(space.build(space.width_architecture([0.5])).stages),
            images,
            [LiteRT()],
            path=tmp_path / name,
            labels=[str(i) for i in range(7)],
        )
        with open_runtime(result.bundle, "litert/float32") as runtime:
            runtime.start(images[0])
            answers.append([runtime.run(stage) for stage in range(2)])
        (file,) = (result.bundle.path / "litert").glob("*.tflite")
        operators.append(_operators(file.read_bytes()))
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-4, atol=1e-4)
    joined, summed = operators
    # Batch normalisation is in the convolutions, of summands too.
    assert summed["MUL"] == joined["MUL"]
    assert summed["CONV_2D"] > joined["CONV_2D"]
    assert summed["CONCATENATION"] < joined["CONCATENATION"]


def test_nothing_is_left_of_a_shuffle(
    make_space: Callable[..., StaticTransform], rng: np.random.Generator, tmp_path: Path
) -> None:
    space = make_space("shufflenet", 2)
    # The export compares every exit with torch, and raises where they differ.
    result = export(
        list(space.build(space.width_architecture([0.5])).stages),
        rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8),
        [LiteRT(), ExecuTorch(), CoreML()],
        path=tmp_path / "bundle",
        labels=[str(i) for i in range(7)],
    )
    (file,) = (result.bundle.path / "litert").glob("*.tflite")
    operators = _operators(file.read_bytes())
    assert operators["CONCATENATION"] > 0
    assert not {"GATHER", "GATHER_ND", "TRANSPOSE"} & operators.keys()
    assert max(len(shape) for shape in _shapes(file.read_bytes())) <= 4


def test_blocks_convert_without_transposes(make_space: Callable[..., StaticTransform]) -> None:
    space = make_space("resnet20", 2)
    found = {
        block.key: block
        for stage in space.blocks(space.width_architecture([0.5]))
        for block in stage
    }
    kinds = {"SpatialSlice": 0, "Concatenate": 0}
    chosen = {}
    for index, (key, block) in enumerate(found.items()):
        for kind in kinds:
            if f'"{kind}"' in key and not kinds[kind]:
                kinds[kind] = 1
                chosen[f"block_{index}"] = (block.module(), block.input_shapes)
    assert all(kinds.values())
    operators = _operators(convert_blocks(chosen, precision="float32"))
    assert operators["CONCATENATION"] > 0
    assert operators["STRIDED_SLICE"] > 0
    assert operators["TRANSPOSE"] == 0
