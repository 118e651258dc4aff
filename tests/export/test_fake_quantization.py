"""Training with roundings in it must not hold on to what it has computed."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from offramp_export._edges import prepare_stages
from offramp_export._fake_quantization import measure_ranges, quantized_run
from offramp_export.testing import contract_images, contract_stages

if TYPE_CHECKING:
    from torch import Tensor, nn


def test_activations_are_let_go_without_a_collection() -> None:
    stages = prepare_stages(contract_stages())
    images = contract_images(8)
    ranges = measure_ranges(stages, images, 8)
    kept: list[weakref.ref[Tensor]] = []

    def remember(_: nn.Module, __: Any, made: Any) -> None:
        if isinstance(made, torch.Tensor):
            kept.append(weakref.ref(made))

    hooks = [m.register_forward_hook(remember) for stage in stages for m in stage.modules()]
    gc.collect()
    gc.disable()
    try:
        for stage in stages:
            stage.requires_grad_(True)
        answers = quantized_run(stages, ranges, torch.from_numpy(images.astype(np.float32)))
        sum(logits.sum() for logits in answers).backward()  # type: ignore[union-attr]
        del answers
        alive = [made for made in kept if made() is not None]
    finally:
        gc.enable()
        for hook in hooks:
            hook.remove()
    assert kept
    assert not alive
