"""Training stages to stand int8: fake-quantised, and distilled from what they were.

Weights and activations are rounded in the forward pass as static int8 rounds them (weights with a
scale per output channel, symmetric; activations with one scale and zero point per tensor) and the
gradient passes the rounding straight through, as in Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference" (CVPR 2018). Batch normalisation
keeps its statistics: folding it into a convolution scales whole output channels, which leaves a
scale per channel's rounding as it is.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from offramp.errors import ExportError, ShapeError
from offramp_export._edges import run_stages
from offramp_export._equalization import equalize
from offramp_export._fake_quantization import measure_ranges, quantized_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

__all__ = ["FineTuning", "fine_tune"]

_MEASURED_IMAGES = 300  # as many as the quantisers are calibrated on at most
_STEPS_BETWEEN = 50  # one measurement and the next: it costs a twentieth of what they do


@final
@dataclass(frozen=True, slots=True)
class FineTuning:
    """How stages are trained to stand int8.

    Attributes:
        epochs: Passes over the images.
        learning_rate: At the start; it falls to zero along a half cosine.
        batch_size: Images per step.
        seed: Of the order of the images.
    """

    epochs: int = 3
    learning_rate: float = 1e-4
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "batch_size"):
            if not getattr(self, name) > 0:
                raise ExportError(
                    f"fine-tuning: {name} is {getattr(self, name)}, expected a positive number"
                )


def fine_tune(
    stages: Sequence[nn.Module],
    images: NDArray[np.uint8],
    options: FineTuning | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[nn.Module, ...]:
    """Copies of the stages, trained so that static int8 answers as the float stages do.

    Every exit is taught the logits that the same exit of the float network gives, so the images
    need no labels. Ranges of activations are measured on some of the images again and again,
    as the quantiser will measure them afterwards.

    Args:
        stages: As ``export`` takes them; they are left alone.
        images: ``(images, height, width, 3)`` uint8, RGB, from the training data.
        options: How to train.
        progress: Called with (epochs done, epochs in all).

    Returns:
        The stages, in evaluation mode, float32, for ``export`` with the target ``LiteRT("int8")``.

    Raises:
        ShapeError: The images have another shape or dtype.
        ExportError: There are fewer images than one batch, or training diverged.
    """
    options = options or FineTuning()
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ShapeError(
            f"images is {images.dtype} {images.shape}, expected uint8 (images, height, width, 3)"
        )
    if len(images) < options.batch_size:
        raise ExportError(
            f"fine-tuning was given {len(images)} images, expected at least one batch of "
            f"{options.batch_size}; pass more images or a smaller batch_size"
        )
    student = _prepare(equalize(stages, images))
    wanted = [_centred(logits) for logits in _answers(student, images, options.batch_size)]
    spreads = [float(logits.square().mean().clamp_min(1e-12)) for logits in wanted]
    parameters = [parameter for stage in student for parameter in stage.parameters()]
    unique = list({id(parameter): parameter for parameter in parameters}.values())
    for parameter in unique:
        parameter.requires_grad_(True)
    steps = len(images) // options.batch_size
    optimizer = torch.optim.Adam(unique, options.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * steps)
    generator = np.random.default_rng(options.seed)
    measured = images[generator.permutation(len(images))[:_MEASURED_IMAGES]]
    for epoch in range(options.epochs):
        if progress is not None:
            progress(epoch, options.epochs)
        order = generator.permutation(len(images))[: steps * options.batch_size]
        for step, chosen in enumerate(order.reshape(steps, options.batch_size)):
            if step % _STEPS_BETWEEN == 0:
                quantization = measure_ranges(student, measured, options.batch_size)
                if not all(math.isfinite(end) for ends in quantization.values() for end in ends):
                    raise _diverged(epoch, options)
            batch = torch.from_numpy(images[chosen].astype(np.float32))
            answers = quantized_run(student, quantization, batch)
            loss = _loss(answers, [logits[chosen] for logits in wanted], spreads)
            if not bool(torch.isfinite(loss)):
                raise _diverged(epoch, options)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    if progress is not None:
        progress(options.epochs, options.epochs)
    for parameter in unique:
        parameter.requires_grad_(False)
    for stage in student:
        stage.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return student


def _diverged(epoch: int, options: FineTuning) -> ExportError:
    return ExportError(
        f"fine-tuning diverged by epoch {epoch + 1}; lower the learning rate, now "
        f"{options.learning_rate:g}"
    )


def _prepare(stages: Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    # Copied together, so that what they share stays shared.
    copies = copy.deepcopy(list(stages))
    for stage in copies:
        stage.to(device="cpu", dtype=torch.float32).eval().requires_grad_(False)
        # Images come channel-last, and convolutions are faster where all is.
        stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return tuple(copies)


def _answers(
    stages: Sequence[nn.Module], images: NDArray[np.uint8], batch_size: int
) -> list[Tensor]:
    """``(images, classes)`` logits of every exit."""
    parts = []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[start : start + batch_size].astype(np.float32))
        parts.append([outputs[0] for outputs in run_stages(stages, batch)])
    return [torch.cat(logits) for logits in zip(*parts, strict=True)]


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


def _loss(answers: Sequence[Tensor], wanted: Sequence[Tensor], spreads: Sequence[float]) -> Tensor:
    """The squared error of the exits' centred logits, as a share of what these vary, averaged.

    What all logits of an image have in common says nothing, and an exit with large logits must not
    outweigh one with small ones.
    """
    losses = [
        (_centred(logits) - target).square().mean() / spread
        for logits, target, spread in zip(answers, wanted, spreads, strict=True)
    ]
    return torch.stack(losses).mean()
