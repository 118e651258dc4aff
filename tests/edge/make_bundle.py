"""Makes a bundle and photos for other machines to predict; run as a script.

A small trained three-stage network in LiteRT, float32 and int8, with a policy for each whose
thresholds stand in the widest gap between the signals of the test images: rounding on another
processor may change a signal, and must not change an exit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from offramp.bundle import Policy
from offramp.policy import probabilities, signal_values
from offramp_export import Preprocess, export
from offramp_export.targets import LiteRT

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE, IMAGES = 24, 48
LABELS = ("ant", "bee", "cat", "dog", "elk")


class Stage(nn.Module):
    def __init__(self, inputs: int, channels: int, *, first: bool, last: bool) -> None:
        super().__init__()
        self.preprocess = (
            Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)) if first else nn.Identity()
        )
        self.features = nn.Sequential(
            nn.Conv2d(inputs, channels, 3, 2 if first else 1, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
        )
        self.exit = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, len(LABELS))
        )
        self.last = last

    def forward(self, carry: Tensor) -> tuple[Tensor, ...]:
        maps = self.features(self.preprocess(carry))
        return (self.exit(maps),) if self.last else (self.exit(maps), maps)


def draw(generator: np.random.Generator, label: int, height: int, width: int) -> NDArray[np.uint8]:
    """Stripes whose direction and tint hint at the label, more or less, and noise."""
    rows, columns = np.mgrid[:height, :width] / width
    angle = np.pi * label / len(LABELS) + generator.normal(0, 0.15)
    wave = np.sin(2 * np.pi * 4 * (np.cos(angle) * rows + np.sin(angle) * columns))
    tint = np.cos(2 * np.pi * (label / len(LABELS) + np.arange(3) / 3))
    image = 128 + generator.uniform(5, 60) * wave[..., None] + generator.uniform(0, 25) * tint
    image = image + generator.uniform(-30, 30, 3) + generator.normal(0, 20, (height, width, 3))
    pixels: NDArray[np.uint8] = image.clip(0, 255).astype(np.uint8)
    return pixels


def draw_many(
    generator: np.random.Generator, images: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    labels = generator.integers(0, len(LABELS), images)
    return np.stack([draw(generator, int(label), SIZE, SIZE) for label in labels]), labels


def train(stages: list[Stage], generator: np.random.Generator) -> None:
    """For a few seconds, all exits at once."""
    images, labels = draw_many(generator, 512)
    optimizer = torch.optim.Adam(
        [weight for stage in stages for weight in stage.parameters()], 0.005
    )
    for _ in range(160):
        rows = generator.integers(0, len(images), 64)
        carry = torch.from_numpy(images[rows].astype(np.float32))
        loss = torch.zeros(())
        for stage in stages:
            logits, *rest = stage(carry)
            loss = loss + nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows]))
            carry = rest[0] if rest else carry
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def threshold(logits: NDArray[np.float32]) -> float:
    """The middle of the widest gap between the signals of the middle half of the images."""
    signals = np.sort(signal_values(probabilities(logits), "max_probability"))
    middle = signals[len(signals) // 4 : -len(signals) // 4]
    widest = int(np.diff(middle).argmax())
    return float(middle[widest : widest + 2].mean())


def make(folder: Path) -> None:
    torch.set_num_threads(1)  # more of them only wait for each other where the machine is busy
    torch.manual_seed(7)
    generator = np.random.default_rng(7)
    stages = [
        Stage(3, 16, first=True, last=False).eval(),
        Stage(16, 24, first=False, last=False).eval(),
        Stage(24, 32, first=False, last=True).eval(),
    ]
    train(stages, generator)
    images, _ = draw_many(generator, IMAGES)
    calibration, _ = draw_many(generator, 120)
    bundle = export(
        stages,
        images,
        [LiteRT("float32"), LiteRT("int8")],
        path=folder / "bundle",
        labels=LABELS,
        calibration_images=calibration,
    ).bundle
    for name, logits in bundle.vectors().logits.items():
        bundle = bundle.add_policy(
            Policy(
                name="default",
                program=name,
                signal="max_probability",
                temperatures=(1.0, 1.0, 1.0),
                thresholds=(threshold(logits[0]), threshold(logits[1]), 0.0),
                enabled=(True, True, True),
            )
        )
    (folder / "photos").mkdir()
    for number in range(12):
        # Of another size than the network's, so that decoding and resizing are at work, too.
        Image.fromarray(draw(generator, number % len(LABELS), 40, 52)).save(
            folder / "photos" / f"{number:02}.png"
        )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
