"""Exports one small network to every format; run as a script, to see that its bytes never vary.

``export_all.py FOLDER`` writes ``FOLDER/bundle`` with a program per runtime, and one in int8.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from offramp.bundle import Bundle, Policy
from offramp_export import Preprocess, export
from offramp_export.targets import parse_target
from offramp_export.testing import contract_images

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGETS = (
    "litert/float32",
    "litert/int8",
    "litert/int8,float32,int8",
    "executorch/float32",
    "coreml/float16",
)
LABELS = ("ant", "bee", "cow")
_CHANNELS = 4


class Stage(nn.Module):
    """A convolution and an exit; hands its map and what it was given on."""

    def __init__(self, *, first: bool, last: bool) -> None:
        super().__init__()
        self.preprocess = Preprocess() if first else nn.Identity()
        self.body = nn.Conv2d(3 if first else _CHANNELS, _CHANNELS, 3, 1, 1)
        self.norm = nn.BatchNorm2d(_CHANNELS)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.exit = nn.Linear(_CHANNELS, len(LABELS))
        self.last = last

    def forward(self, image_or_map: Tensor) -> tuple[Tensor, ...]:
        """Logits, and the map for the next stage."""
        made = torch.relu(self.norm(self.body(self.preprocess(image_or_map))))
        logits = self.exit(torch.flatten(self.pool(made), 1))
        return (logits,) if self.last else (logits, made)


def _spread(stages: Sequence[Stage], image: Tensor) -> None:
    """Let the answers and how sure they are differ from image to image, at every exit."""
    carry: tuple[Tensor, ...] = (image,)
    with torch.no_grad():
        for stage in stages:
            logits, *carried = stage.eval()(*carry)
            stage.exit.bias.sub_(logits.mean(0))
            for value in (stage.exit.weight, stage.exit.bias):
                value.mul_(2 / logits.std(0).mean())
            carry = tuple(carried)


def make(path: Path) -> Bundle:
    """Export the network with a policy for each LiteRT program."""
    torch.manual_seed(7)
    stages = [Stage(first=place == 0, last=place == 2) for place in range(3)]
    images = contract_images(40, seed=7)
    _spread(stages, torch.from_numpy(images.astype(np.float32)))
    bundle = export(
        stages,
        images[:12],
        [parse_target(name) for name in TARGETS],
        path=path,
        labels=LABELS,
        calibration_images=images[12:],
    ).bundle
    for name in ("litert/float32", "litert/int8"):
        bundle = bundle.add_policy(
            Policy(
                name=f"sure-{name.rpartition('/')[2]}",
                program=name,
                signal="max_probability",
                temperatures=(1.0,) * 3,
                thresholds=(0.8, 0.7, 0.0),
                enabled=(True,) * 3,
            )
        )
    return bundle


if __name__ == "__main__":
    make(Path(sys.argv[1]) / "bundle")
