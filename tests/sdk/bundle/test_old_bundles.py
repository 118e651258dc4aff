"""Bundles of earlier format versions are read, and answer as they did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offramp import DynamicClassifier
from offramp.bundle import Bundle

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize("program", ["litert/float32", "litert/int8"])
def test_version_1_answers_as_it_did(program: str) -> None:
    path = FIXTURES / "bundle-v1"
    images = Bundle.open(path).vectors().images
    recorded = json.loads((FIXTURES / "answers-v1.json").read_text())[program]
    with DynamicClassifier.load(path, program=program) as classifier:
        answers = [classifier.predict(image) for image in images]
    assert [[answer.label, answer.exit] for answer in answers] == recorded
    assert len({label for label, _ in recorded}) > 1
    assert len({exit for _, exit in recorded}) > 1


def test_version_1_keeps_what_it_says() -> None:
    bundle = Bundle.open(FIXTURES / "bundle-v1")
    manifest = bundle.manifest
    assert manifest.format_version == 1
    assert manifest.labels == ("ant", "bee", "cow")
    names = [entry.name for entry in manifest.programs]
    assert names == ["litert/float32", "litert/int8", "executorch/float32", "coreml/float16"]
    for entry in manifest.programs:
        for file in entry.files:
            assert len(bundle.read(file)) == file.size_bytes
    assert sorted(bundle.vectors().logits) == sorted(names)
