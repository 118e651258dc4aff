"""What programs say of themselves, read back by readers that know nothing of bundles."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp.bundle import InputSpec
from offramp.runtimes import open_runtime
from offramp_export import export
from offramp_export._edges import prepare_stages, trace_edges
from offramp_export._litert.flatbuffer import read_model
from offramp_export._quiet import quiet
from offramp_export.targets import Card, CoreML, ExecuTorch, LiteRT
from offramp_export.targets._executorch_metadata import describe_program

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

LABELS = ("ant", "bee; queen", "Kühe")


def _field(table: Any, slot: int) -> int:
    """The place of a field of a table, 0 if it is not there."""
    offset: int = table.Offset(4 + 2 * slot)
    return offset and table.Pos + offset


def _table(table: Any, slot: int) -> Any:
    from flatbuffers.table import Table  # type: ignore[import-untyped]

    return Table(table.Bytes, table.Indirect(_field(table, slot)))


def _tables(table: Any, slot: int) -> list[Any]:
    from flatbuffers.table import Table

    offset = table.Offset(4 + 2 * slot)
    start = table.Vector(offset)
    return [
        Table(table.Bytes, table.Indirect(start + 4 * place))
        for place in range(table.VectorLen(offset))
    ]


def _text(table: Any, slot: int) -> str:
    return str(table.String(_field(table, slot)).decode())


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_litert_metadata(branchy: list[nn.Module], tmp_path: Path, precision: str) -> None:
    from flatbuffers.table import Table

    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    bundle = export(
        branchy,
        images,
        [LiteRT(precision)],  # type: ignore[arg-type]
        path=tmp_path / "bundle",
        labels=LABELS,
        calibration_images=images,
    ).bundle
    content = (tmp_path / "bundle" / "litert" / f"{precision}.tflite").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(LABELS)
    model = read_model(content)
    (entry,) = (entry for entry in model.metadata if entry.name == b"TFLITE_METADATA")
    data = bytes(np.asarray(model.buffers[entry.buffer].data, np.uint8))
    assert data[4:8] == b"M001"
    root = Table(data, int.from_bytes(data[:4], "little"))
    assert _text(root, 1) == model.description.decode()
    assert "2 stages" in _text(root, 1)
    graphs = _tables(root, 3)
    assert [_text(graph, 0) for graph in graphs] == ["stage_0", "stage_1"]
    for graph, tree in zip(graphs, model.subgraphs, strict=True):
        assert len(_tables(graph, 2)) == len(tree.inputs)
        assert len(_tables(graph, 3)) == len(tree.outputs)
        (file,) = _tables(_tables(graph, 3)[0], 6)
        assert _text(file, 0) == "labels.txt"
    (image,) = _tables(graphs[0], 2)
    assert _text(image, 0) == "image"
    options = _table(_tables(image, 4)[0], 1)
    for slot, value in ((0, 0.0), (1, 1.0)):
        start = options.Vector(options.Offset(4 + 2 * slot))
        assert np.frombuffer(data, np.float32, 1, start) == value
    with open_runtime(bundle) as runtime:
        runtime.start(images[0])
        recorded = bundle.vectors().logits[f"litert/{precision}"][0, 0]
        np.testing.assert_allclose(runtime.run(0), recorded, atol=1e-5)


@pytest.mark.parametrize("target", [ExecuTorch(), ExecuTorch("int8")])
def test_executorch_metadata(branchy: list[nn.Module], tmp_path: Path, target: ExecuTorch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    bundle = export(
        branchy,
        images,
        [target],
        path=tmp_path / "bundle",
        labels=LABELS,
        calibration_images=images,
        input_spec=InputSpec(height=8, width=8, resize="stretch"),
    ).bundle
    content = (tmp_path / "bundle" / f"{target.name}.pte").read_bytes()
    with quiet():
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(content)
        said = {
            name: program.load_method(name).execute([])
            for name in program.method_names
            if not name.startswith("stage_")
        }
    assert tuple(said.pop("get_labels")) == LABELS
    values = {name: value for name, (value,) in said.items()}
    assert "3 classes" in values.pop("get_description")
    assert values.pop("get_author").startswith("offramp ")
    assert values.pop("get_version") == bundle.manifest.provenance.created_by.split()[1]
    assert values == {
        "get_image_height": 8,
        "get_image_width": 8,
        "get_image_colour": "rgb",
        "get_image_resize": "stretch",
        "get_image_filter": "bilinear",
    }
    # The SDK runs the stages, and looks at nothing else.
    with open_runtime(bundle, self_test="never") as runtime:
        runtime.start(images[0])
        recorded = bundle.vectors().logits[target.name][0, 0]
        np.testing.assert_allclose(runtime.run(0), recorded, atol=1e-5)


def test_describing_an_executorch_program_changes_nothing_else(branchy: list[nn.Module]) -> None:
    """Taken apart and put together without a word more, the file is what it was."""
    from executorch.exir._serialize import _program

    stages = prepare_stages(branchy)
    program = ExecuTorch().convert(stages, trace_edges(stages, 8, 8).carries, None)
    (content,) = program.files.values()
    card = Card.make(LABELS, 2, "me", "1", InputSpec(height=8, width=8))
    described = describe_program(content, card)
    assert described == describe_program(content, card)
    file = _program.deserialize_pte_binary(described)
    plans = [plan for plan in file.program.execution_plan if plan.name.startswith("stage_")]
    assert len(plans) == 2
    file.program.execution_plan = plans
    again = _program.serialize_pte_binary(file, extract_delegate_segments=True)
    assert bytes(again) == content


def test_coreml_metadata(branchy: list[nn.Module], tmp_path: Path) -> None:
    with quiet():  # it warns of what it does not find
        import coremltools

    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for system in ("iOS16", "iOS18"):
        path = tmp_path / system
        target = CoreML("float16", system)
        export(branchy, images, [target], path=path, labels=LABELS)
        for number, package in enumerate(sorted(path.glob("coreml/*.mlpackage"))):
            model = coremltools.models.MLModel(str(package), skip_model_load=True)
            assert json.loads(model.user_defined_metadata["labels"]) == list(LABELS)
            assert "3 classes" in model.short_description
            assert model.author.startswith("offramp ")
            description = model.get_spec().description
            for stage, function in enumerate(description.functions or [description], start=number):
                text = function.input[0].shortDescription
                assert text.startswith("The image, RGB" if stage == 0 else "Carry 0 of stage 0")
                assert function.output[0].shortDescription.startswith("Logits")
