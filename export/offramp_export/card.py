"""What a program says of itself to tools that know nothing of bundles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from offramp.bundle import InputSpec

__all__ = ["IMAGE_TEXT", "Card", "edge_texts"]

IMAGE_TEXT = "The image, RGB, 0 to 255, rows from the top; normalised inside the program."


@final
@dataclass(frozen=True, slots=True)
class Card:
    """Labels and origin of a network, for the native metadata of a program's format.

    Attributes:
        labels: One per class, in the order of the logits.
        description: What the network does, in a sentence.
        author: Who or what made it.
        version: Of what made it.
        image: How an image becomes the input.
    """

    labels: tuple[str, ...]
    description: str
    author: str
    version: str
    image: InputSpec

    @classmethod
    def make(
        cls, labels: tuple[str, ...], stages: int, author: str, version: str, image: InputSpec
    ) -> Card:
        """The card of a network of so many stages."""
        kind = "An image classifier" if stages == 1 else f"An image classifier of {stages} stages"
        more = "" if stages == 1 else ", each of which answers and hands a carry to the next one"
        return cls(labels, f"{kind} with {len(labels)} classes{more}.", author, version, image)


def edge_texts(stage: int, inputs: int, outputs: int) -> tuple[list[str], list[str]]:
    """A sentence for each input and output of a stage."""
    taken = [IMAGE_TEXT] if stage == 0 else []
    taken += [
        f"Carry {place} of stage {stage - 1}, handed on as it is." for place in range(inputs)
    ][len(taken) :]
    given = ["Logits, one per class, before softmax."]
    given += [f"Carry {place} for stage {stage + 1}." for place in range(outputs - 1)]
    return taken, given
