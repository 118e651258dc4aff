"""All exits of a network of shared weights, fitted while everything before them stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

import numpy as np
import torch

from offramp.errors import TrainingError
from offramp_search.evaluators._exits import SelectableNetwork, fit_exits
from offramp_search.evaluators._fit_exit import LinearExit, fit_exit
from offramp_search.evaluators._train_head import HEAD_RECIPE, train_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from offramp_search.data import ImageSet
    from offramp_search.spaces.static_transform import ExitHead
    from offramp_search.training import Recipe

__all__ = ["FittedExits", "HeadedNetwork", "cached_images", "fit_all_exits"]

_MEMORY_BYTES = 512 * 2**20


@runtime_checkable
class HeadedNetwork(SelectableNetwork, Protocol):
    """One whose exits may begin with layers of their own."""

    def heads(self) -> Sequence[ExitHead]:
        """A copy of each head of the architecture that is selected."""

    def frozen_reads(self, image: Tensor) -> tuple[Tensor, ...]:
        """Per exit what its head reads, or without one what its classifier reads."""

    def set_head(self, head: ExitHead) -> None:
        """Take the weights of a trained copy."""

    def set_exit(self, stage: int, weight: Tensor, bias: Tensor) -> None:
        """Take the weights of a classifier."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class FittedExits:
    """The exits of one architecture.

    Attributes:
        linear: By stage, those that are a classifier alone.
        heads: The others.
    """

    linear: Mapping[int, LinearExit]
    heads: tuple[ExitHead, ...]

    def logits(
        self, network: HeadedNetwork, images: NDArray[np.uint8], *, batch_size: int = 256
    ) -> NDArray[np.float32]:
        """``(exits, images, classes)`` of a network with these exits, which it need not have."""
        batches = []
        for reads in _read(network, images, batch_size):
            answers = {
                stage: one.logits(reads[stage].numpy()) for stage, one in self.linear.items()
            }
            with torch.inference_mode():
                for head in self.heads:
                    made = head(reads[head.stages[0]].to(next(head.parameters()).device))
                    for stage, part in zip(head.stages, made, strict=True):
                        answers[stage] = part.float().cpu().numpy()
            batches.append(np.stack([answers[stage] for stage in sorted(answers)]))
        return np.concatenate(batches, axis=1)

    def give_to(self, network: HeadedNetwork) -> None:
        """Write them into the network that they were fitted to, under the same architecture."""
        for stage, one in self.linear.items():
            network.set_exit(stage, torch.from_numpy(one.weight), torch.from_numpy(one.bias))
        for head in self.heads:
            network.set_head(head)


def fit_all_exits(
    network: HeadedNetwork,
    data: ImageSet,
    *,
    generator: np.random.Generator,
    recipe: Recipe = HEAD_RECIPE,
    teacher: NDArray[np.float32] | None = None,
    batch_size: int = 256,
    memory_bytes: int = _MEMORY_BYTES,
) -> FittedExits:
    """Fit all exits to some images: heads are trained, classifiers without one computed.

    The layers that exits share run once over the images; what heads read of them is kept in half
    precision. Where that would take more than the memory allowed, heads see fewer of the images,
    spread evenly over them.

    Args:
        network: In evaluation mode, an architecture selected; it stays as it is.
        data: A few thousand images of the training split.
        generator: Draws the order in which heads see the images.
        recipe: How to train heads.
        teacher: ``(images, classes)`` logits that heads are distilled from as well.
        batch_size: Images per forward pass.
        memory_bytes: What the maps that are kept may take, all heads together.

    Raises:
        TrainingError: Features or maps are not finite, or too large for half precision.
    """
    heads = tuple(network.heads())
    if not heads:
        exits = fit_exits(network, data, batch_size=batch_size)
        return FittedExits(dict(enumerate(exits)), ())
    seen = cached_images(len(data), heads, memory_bytes)
    maps = [np.empty((len(seen), *head.map_shape), np.float16) for head in heads]
    headed = {stage for head in heads for stage in head.stages}
    features: dict[int, list[NDArray[np.float32]]] = {}
    start = kept = 0
    for reads in _read(network, data.images, batch_size):
        stop = start + len(reads[0])
        here = seen[kept : np.searchsorted(seen, stop)]
        for head, part in zip(heads, maps, strict=True):
            part[kept : kept + len(here)] = _half(reads[head.stages[0]][here - start])
        for stage, read in enumerate(reads):
            if stage not in headed:
                features.setdefault(stage, []).append(read.numpy())
        start, kept = stop, kept + len(here)
    linear = {
        stage: fit_exit(np.concatenate(parts), data.labels, classes=network.num_classes)
        for stage, parts in features.items()
    }
    trained = [
        train_head(
            head,
            part,
            data.labels[seen],
            recipe=recipe,
            teacher=None if teacher is None else teacher[seen],
            generator=generator,
        )
        for head, part in zip(heads, maps, strict=True)
    ]
    return FittedExits(linear, tuple(trained))


def cached_images(images: int, heads: Sequence[ExitHead], memory_bytes: int) -> NDArray[np.intp]:
    """Which of the images heads are trained on: all, or as many as their maps find room for.

    Args:
        images: How many there are.
        heads: Whose maps are kept, in half precision.
        memory_bytes: For all of them together.
    """
    each = sum(2 * int(np.prod(head.map_shape)) for head in heads)
    count = min(images, max(1, memory_bytes // each))
    return np.arange(count) * images // count


def _read(
    network: HeadedNetwork, images: NDArray[np.uint8], batch_size: int
) -> Iterator[tuple[Tensor, ...]]:
    assert isinstance(network, torch.nn.Module)
    device = next(network.parameters()).device
    for batch in torch.split(torch.from_numpy(images), batch_size):
        with torch.inference_mode():
            reads = network.frozen_reads(batch.to(device).float())
        yield tuple(read.float().cpu() for read in reads)


def _half(maps: Tensor) -> NDArray[np.float16]:
    limit = float(np.finfo(np.float16).max)
    largest = float(maps.abs().max()) if maps.numel() else 0.0
    if not largest <= limit:
        raise TrainingError(
            f"a map has values up to {largest:g}, and half precision ends at {limit:g}; train the "
            "network longer or more gently"
        )
    return maps.to(torch.float16).numpy()
