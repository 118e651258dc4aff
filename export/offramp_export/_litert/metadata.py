"""Labels and descriptions inside a ``.tflite`` file, as TensorFlow Lite's tools read them.

The file gets a buffer named ``TFLITE_METADATA``, a FlatBuffer of its own, and the labels as a text
file in a zip at its end. The schema is metadata_schema.fbs, version 1.0.1, of
https://github.com/tensorflow/tflite-support; its slots are numbered here, since no package of
Python 3.11 that fits beside ours holds its generated classes.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp_export._litert.flatbuffer import read_model, write_model
from offramp_export.card import edge_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp_export.card import Card

__all__ = ["LABELS_FILE", "METADATA_BUFFER", "describe_stages"]

LABELS_FILE = "labels.txt"
METADATA_BUFFER = b"TFLITE_METADATA"

_AXIS_LABELS, _FEATURE, _IMAGE, _NORMALISATION, _RGB = 2, 1, 2, 1, 1
_PARSER_VERSION = "1.0.1"
# Of the zip's member, so that equal programs have equal bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def describe_stages(program: bytes, names: Sequence[str], card: Card) -> bytes:
    """The program with its metadata.

    Args:
        program: A ``.tflite`` file without any.
        names: Its signatures, first stage to last.
        card: What to say.
    """
    model = read_model(program)
    content = _metadata(model, names, card)
    from ai_edge_litert import schema_py_generated as schema

    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = METADATA_BUFFER, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    model.description = card.description
    file = io.BytesIO(write_model(model))
    with zipfile.ZipFile(file, "a") as archive:
        member = zipfile.ZipInfo(LABELS_FILE, _EPOCH)
        archive.writestr(member, "".join(f"{label}\n" for label in card.labels))
    return file.getvalue()


def _metadata(model: Any, names: Sequence[str], card: Card) -> bytes:
    write = _Writer()
    places = {
        signature.subgraphIndex: names.index(signature.signatureKey.decode())
        for signature in model.signatureDefs
    }
    graphs = []
    for number, graph in enumerate(model.subgraphs):
        stage = places.get(number)
        if stage is None:
            graphs.append(write.table(9, {}))
            continue
        inputs, outputs = edge_texts(stage, len(graph.inputs), len(graph.outputs))
        taken = [
            write.image(text) if (stage, place) == (0, 0) else write.tensor(f"carry_{place}", text)
            for place, text in enumerate(inputs)
        ]
        given = [
            write.logits(text) if place == 0 else write.tensor(f"carry_{place - 1}", text)
            for place, text in enumerate(outputs)
        ]
        slots = {0: write.text(names[stage]), 2: write.offsets(taken), 3: write.offsets(given)}
        graphs.append(write.table(9, slots))
    root = write.table(
        8,
        {
            0: write.text("offramp"),
            1: write.text(card.description),
            2: write.text(card.version),
            3: write.offsets(graphs),
            4: write.text(card.author),
            7: write.text(_PARSER_VERSION),
        },
    )
    return write.finish(root)


@final
class _Writer:
    """Tables of the metadata schema; children are written before their parents."""

    def __init__(self) -> None:
        import flatbuffers  # type: ignore[import-untyped]

        self._builder = flatbuffers.Builder(1024)

    def finish(self, root: int) -> bytes:
        self._builder.Finish(root, b"M001")
        return bytes(self._builder.Output())

    def text(self, value: str) -> int:
        place: int = self._builder.CreateString(value)
        return place

    def offsets(self, places: Sequence[int]) -> int:
        self._builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            self._builder.PrependUOffsetTRelative(place)
        made: int = self._builder.EndVector()
        return made

    def floats(self, *values: float) -> int:
        made: int = self._builder.CreateNumpyVector(np.array(values, np.float32))
        return made

    def table(self, size: int, offsets: dict[int, int], kinds: dict[int, int] | None = None) -> int:
        self._builder.StartObject(size)
        for slot, place in offsets.items():
            self._builder.PrependUOffsetTRelativeSlot(slot, place, 0)
        for slot, value in (kinds or {}).items():
            self._builder.PrependByteSlot(slot, value, 0)
        made: int = self._builder.EndObject()
        return made

    def content(self, kind: int, properties: int) -> int:
        return self.table(3, {1: properties}, {0: kind})

    def tensor(self, name: str, text: str, slots: dict[int, int] | None = None) -> int:
        content = {3: self.content(_FEATURE, self.table(0, {}))}
        return self.table(7, {0: self.text(name), 1: self.text(text), **(slots or content)})

    def image(self, text: str) -> int:
        options = self.table(2, {0: self.floats(0.0), 1: self.floats(1.0)})
        unit = self.table(2, {1: options}, {0: _NORMALISATION})
        stats = self.table(2, {0: self.floats(255.0), 1: self.floats(0.0)})
        content = self.content(_IMAGE, self.table(2, {}, {0: _RGB}))
        return self.tensor("image", text, {3: content, 4: self.offsets([unit]), 5: stats})

    def logits(self, text: str) -> int:
        slots = {0: self.text(LABELS_FILE), 1: self.text("Label of each class.")}
        file = self.table(4, slots, {2: _AXIS_LABELS})
        content = self.content(_FEATURE, self.table(0, {}))
        return self.tensor("logits", text, {3: content, 6: self.offsets([file])})
