"""What an ExecuTorch program says of itself: methods without inputs that return constants.

Apps read them through the runtime they have loaded anyway: ``execute("get_labels")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offramp_export._quiet import quiet
from offramp_export._require import require

if TYPE_CHECKING:
    from offramp_export.card import Card

__all__ = ["constant_methods", "describe_program"]


def constant_methods(card: Card) -> dict[str, str | int | list[str]]:
    """Method name -> what it returns."""
    image = card.image
    return {
        "get_labels": list(card.labels),
        "get_description": card.description,
        "get_author": card.author,
        "get_version": card.version,
        "get_image_height": image.height,
        "get_image_width": image.width,
        "get_image_colour": image.colour,
        "get_image_resize": image.resize,
        "get_image_filter": image.filter,
    }


def describe_program(content: bytes, card: Card) -> bytes:
    """A ``.pte`` file with the card in it.

    The labels are not known when the stages are lowered, so the methods are put into the file, as
    ExecuTorch's own emitter would have.

    Args:
        content: The file as ``to_executorch`` leaves it.
        card: What to say.
    """
    with quiet():
        schema = require("executorch.exir.schema")
        files = require("executorch.exir._serialize._program")
        config = require("executorch.exir").ExecutorchBackendConfig()
        file = files.deserialize_pte_binary(content)
        file.program.execution_plan += [
            _constant(schema, name, value) for name, value in constant_methods(card).items()
        ]
        described = files.serialize_pte_binary(
            file,
            extract_delegate_segments=config.extract_delegate_segments,
            segment_alignment=config.segment_alignment,
            constant_tensor_alignment=config.constant_tensor_alignment,
            delegate_alignment=config.delegate_alignment,
        )
    return bytes(described)


def _constant(schema: Any, name: str, value: str | int | list[str]) -> Any:
    from executorch.extension import pytree

    leaves, shape = pytree.tree_flatten(value)
    values = [
        schema.EValue(schema.String(leaf) if isinstance(leaf, str) else schema.Int(leaf))
        for leaf in leaves
    ]
    return schema.ExecutionPlan(
        name=name,
        container_meta_type=schema.ContainerMetadata("", shape.to_str()),
        values=values,
        inputs=[],
        outputs=list(range(len(values))),
        chains=[schema.Chain(inputs=[], outputs=[], instructions=[], stacktrace=None)],
        operators=[],
        delegates=[],
        non_const_buffer_sizes=[0],
    )
