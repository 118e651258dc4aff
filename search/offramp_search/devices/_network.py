"""Whole networks as a device measures them: every stage a block of its own."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, final

import msgspec
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from offramp_export.network import MultiStageNetwork
    from offramp_search.spaces import Block

__all__ = ["module_key", "network_key", "stages_as_blocks"]


def network_key(stages: Sequence[Collection[Block]]) -> str:
    """Equal for networks whose stages have equal blocks.

    Args:
        stages: The blocks of each stage, as ``Space.blocks`` gives them.
    """
    content = [[block.key for block in blocks] for blocks in stages]
    return f"blocks {hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:32]}"


def module_key(module: nn.Module, image_shape: tuple[int, int]) -> str:
    """Equal for static networks that torch prints alike, on images of one size."""
    content = f"{image_shape} {module}"
    return f"module {hashlib.sha256(content.encode()).hexdigest()[:32]}"


def stages_as_blocks(
    network: MultiStageNetwork, image_shape: tuple[int, int]
) -> dict[str, tuple[nn.Module, tuple[tuple[int, ...], ...]]]:
    """Signature name -> (stage, torch shapes of what it reads), for ``convert_blocks``.

    Args:
        network: In evaluation mode.
        image_shape: Height and width.
    """
    blocks: dict[str, tuple[nn.Module, tuple[tuple[int, ...], ...]]] = {}
    carry: tuple[Tensor, ...] = (torch.zeros(1, *image_shape, 3),)
    with torch.no_grad():
        for number, stage in enumerate(network.stages):
            if number == 0:
                read: tuple[tuple[int, ...], ...] = ((1, 3, *image_shape),)
                blocks["stage_0"] = (_FromMap(stage), read)
            else:
                read = tuple(tuple(tensor.shape) for tensor in carry)
                blocks[f"stage_{number}"] = (stage, read)
            carry = stage(*carry)[1:]
    return blocks


@final
class _FromMap(nn.Module):
    """Stage 0 of an image in torch's layout: blocks have all their maps so, and images are not."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        answer: tuple[Tensor, ...] = self.stage(image.permute(0, 2, 3, 1))
        return answer
