"""What Xcode shows of a Core ML model: labels, descriptions, author, version.

A classifier's outputs are not declared: they would add a dictionary of every class to each
prediction, and Core ML has room for one such output where an exit also hands on a carry. The image
stays an array, since a picture input cannot be float32 RGB of the raw range.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from offramp_export._require import require
from offramp_export.card import edge_texts

if TYPE_CHECKING:
    from offramp_export.card import Card

__all__ = ["describe_model"]


def describe_model(content: bytes, card: Card, *, first_stage: int) -> bytes:
    """A ``.mlmodel`` file with the card in it.

    Args:
        content: The file; it has a function per stage, or is one stage.
        card: What to say; the labels become a JSON list under the key ``labels``.
        first_stage: The stage of its first function.
    """
    specification = require("coremltools").proto.Model_pb2.Model.FromString(content)
    description = specification.description
    metadata = description.metadata
    metadata.shortDescription, metadata.author = card.description, card.author
    metadata.versionString = card.version
    metadata.userDefined["labels"] = json.dumps(card.labels, ensure_ascii=False)
    functions = description.functions or [description]
    for stage, function in enumerate(functions, start=first_stage):
        texts = edge_texts(stage, len(function.input), len(function.output))
        for features, sentences in zip((function.input, function.output), texts, strict=True):
            for feature, sentence in zip(features, sentences, strict=True):
                feature.shortDescription = sentence
    made: bytes = specification.SerializeToString(deterministic=True)
    return made
