"""The networks of ``export_parity.py``: three exits each, for CIFAR-10's 32×32 images.

The two ResNets are pretrained; VGG-16 and MobileNetV2 are what ``cifar10_bases.py`` made. The early
exits of these four, a small convolution and a linear layer, are trained here while the rest stays
as it is. The squeeze-excite network is the pretrained ResNet-20 with a squeeze-excite module in
every block, trained on together with its exits. The DenseNet-like one is trained here for some
minutes, all exits together. It is not as good as its kind can be, and that is not what is measured.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from safetensors.torch import load_model, save
from torch import Tensor, nn
from torch.nn import functional

from offramp._files import write_atomically
from offramp_search.bases import load_base
from offramp_search.training import Recipe, train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from offramp_export import Preprocess
    from offramp_search.bases import Base
    from offramp_search.data import ImageSet
    from offramp_search.training import TrainingProgress

__all__ = ["NETWORKS", "Prepared", "ThreeExits", "prepare"]

_BATCH = 100
_CLASSES = 10
_EXIT_FEATURES = 1024
_SIDE, _EXIT_CHANNELS = 8, 64  # what an exit with a convolution reads, and what it makes of it
_FIT_IMAGES, _FIT_EPOCHS, _FIT_RATE = 20_000, 8, 0.002
_SMOOTHING = 0.1  # of the labels: logits that need not run away leave int8 finer steps


@final
class ThreeExits(nn.Module):
    """Three parts in a row, with a pooled linear exit after each.

    Exits that read few channels see four by four averages of them, or two by two; the last one sees
    one. Where the parts are not trained with their exits, the early ones look at eight by eight
    averages through a strided convolution: four by four places again.

    Args:
        parts: What computes the maps, first to last.
        channels: Of the map that each part ends in.
        sides: Of the maps that early exits read; ``None`` for early exits without a convolution.
    """

    def __init__(
        self,
        parts: Sequence[nn.Module],
        channels: Sequence[int],
        *,
        sides: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.heads = nn.ModuleList(
            nn.Identity() if sides is None or place == len(sides) else _head(width, sides[place])
            for place, width in enumerate(channels)
        )
        if sides is not None:
            channels = [*(_EXIT_CHANNELS for _ in channels[:-1]), channels[-1]]
        grids = [_grid(width) for width in channels[:-1]] + [1]
        self.pools = nn.ModuleList(
            nn.Identity() if sides is not None and grid > 1 else nn.AdaptiveAvgPool2d(grid)
            for grid in grids
        )
        self.exits = nn.ModuleList(
            nn.Linear(grid * grid * width, _CLASSES)
            for grid, width in zip(grids, channels, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of the three exits."""
        found = []
        for part, head, pool, exit in zip(
            self.parts, self.heads, self.pools, self.exits, strict=True
        ):
            x = part(x)
            found.append(exit(pool(head(x)).flatten(1)))
        return tuple(found)


def _head(channels: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(_SIDE) if side > _SIDE else nn.Identity(),
        nn.Conv2d(channels, _EXIT_CHANNELS, 3, 2, 1, bias=False),
        nn.BatchNorm2d(_EXIT_CHANNELS),
        nn.ReLU(),
    )


def _grid(channels: int) -> int:
    return next(grid for grid in (4, 2, 1) if grid == 1 or grid * grid * channels <= _EXIT_FEATURES)


@final
@dataclass(frozen=True, slots=True)
class Prepared:
    """A network ready to be exported.

    Attributes:
        network: In evaluation mode; takes normalised images.
        preprocess: What normalises them.
        weights: Where its weights come from, in words.
    """

    network: ThreeExits
    preprocess: Preprocess
    weights: str


@final
class _SqueezeExcite(nn.Module):
    """Weighs the channels of what a residual block adds (Hu et al. 2017, arXiv 1709.01507).

    Before it is trained all weights are about one half, which the normalisation before it makes up
    for, so a pretrained network begins where it was.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        channels = norm.num_features
        self.norm = norm
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)
        nn.init.normal_(self.excite.weight, std=0.01)
        assert self.excite.bias is not None
        nn.init.zeros_(self.excite.bias)
        with torch.no_grad():
            norm.weight.mul_(2)
            norm.bias.mul_(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        weights: Tensor = self.excite(functional.relu(self.squeeze(self.pool(x))))
        return x * torch.sigmoid(weights)


@final
class _Dense(nn.Module):
    """Normalises, convolves, and appends what it found."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.convolution = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.convolution(functional.relu(self.norm(x)))], 1)


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _squeeze_excite(base: Any) -> ThreeExits:
    for layer in (base.layer1, base.layer2, base.layer3):
        for block in layer:
            block.bn2 = _SqueezeExcite(block.bn2)
    return _resnet(base)


def _dense() -> ThreeExits:
    parts, widths, channels = [], [], 16
    for place in range(3):
        layers: list[nn.Module] = (
            [_convolution(3, channels)]
            if place == 0
            else [nn.Conv2d(channels, channels // 2, 1), nn.AvgPool2d(2)]
        )
        channels = channels if place == 0 else channels // 2
        for _ in range(4):
            layers.append(_Dense(channels, 12))
            channels += 12
        parts.append(nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU()))
        widths.append(channels)
    return ThreeExits(parts, widths)


def _resnet(base: Any) -> ThreeExits:
    stem = nn.Sequential(base.conv1, base.bn1, nn.ReLU())
    parts = [nn.Sequential(stem, base.layer1), base.layer2, base.layer3]
    network = ThreeExits(parts, (16, 32, 64), sides=(32, 16))
    network.exits[2] = base.linear
    return network


def _sequential(
    base: Any, ends: tuple[int, int], channels: tuple[int, int, int], sides: tuple[int, int]
) -> ThreeExits:
    first, second = ends
    layers = base.features
    parts = [layers[:first], layers[first:second], layers[second:]]
    network = ThreeExits(parts, channels, sides=sides)
    # Dropout does nothing in a network that is trained no more.
    network.exits[2] = next(m for m in base.classifier.modules() if isinstance(m, nn.Linear))
    return network


_SHAPES: dict[str, Callable[[Any], ThreeExits]] = {
    "resnet20": _resnet,
    "resnet56": _resnet,
    "squeeze_excite": _squeeze_excite,
    "dense": lambda _: _dense(),
    "mobilenet_v2": lambda base: _sequential(base, (7, 14), (32, 96, 1280), (16, 8)),
    "vgg16_bn": lambda base: _sequential(base, (14, 23), (128, 256, 512), (8, 8)),
}

NETWORKS = tuple(_SHAPES)
"""All of them; those that are trained here are in ``_TRAINING``."""


@final
@dataclass(frozen=True, slots=True)
class _Training:
    """How many images are seen how often.

    Attributes:
        images: Training images.
        epochs: Times each is seen.
        learning_rate: The largest.
        pretrained: Whether a pretrained ResNet-20 is what it begins with.
    """

    images: int
    epochs: int
    learning_rate: float = 0.1
    pretrained: bool = False


_TRAINING = {
    "squeeze_excite": _Training(20_000, 5, learning_rate=0.02, pretrained=True),
    "dense": _Training(20_000, 12),
}


def prepare(name: str, pretrained: Path, bases: Path, data: ImageSet, kept: Path) -> Prepared:
    """Make a network and give it the weights it has in the benchmark.

    Args:
        name: One of ``NETWORKS``.
        pretrained: Folder of the ResNets' weights.
        bases: Folder of the weights that ``cifar10_bases.py`` made.
        data: CIFAR-10's training images, at least 20,000 of them.
        kept: File with the network's weights; made if it is not there. A training that was killed
            goes on from a file beside it.
    """
    torch.manual_seed(0)
    training = _TRAINING.get(name)
    begun = training is None or training.pretrained
    folder = bases if name in _MADE_HERE else pretrained
    base = _base(name if name in _BASES else "resnet20", folder if begun else None)
    network = _SHAPES[name](base.module)
    if kept.exists():
        load_model(network, str(kept))
    elif training is not None:
        _train(network, base.preprocess, data, training, kept)
    else:
        _fit(network.eval(), base.preprocess, data)
    network.eval().requires_grad_(False)
    if not kept.exists():
        write_atomically(kept, save(network.state_dict()))
    return Prepared(network, base.preprocess, _origin(name, training))


_MADE_HERE = ("mobilenet_v2", "vgg16_bn")
_BASES = ("resnet20", "resnet56", *_MADE_HERE)


def _base(name: str, folder: Path | None) -> Base:
    return load_base(
        name,
        num_classes=_CLASSES,
        image_shape=(32, 32),
        weights=None if folder is None else folder / f"{name}_cifar10.safetensors",
    )


def _origin(name: str, training: _Training | None) -> str:
    if training is None:
        origin = "of cifar10_bases.py" if name in _MADE_HERE else "pretrained"
        return (
            f"{origin}; exits 0 and 1, a strided convolution of {_EXIT_CHANNELS} channels and a "
            f"linear layer, are trained {_FIT_EPOCHS} epochs on {_FIT_IMAGES} training images"
        )
    begun = "of the pretrained ResNet-20, then " if training.pretrained else ""
    return (
        f"{begun}trained {training.epochs} epochs on {training.images} training images, all exits "
        "together"
    )


@final
class _FromPixels(nn.Module):
    """Reads images as they are, for ``train``."""

    def __init__(self, preprocess: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.network = network

    def forward(self, image: Tensor) -> Any:
        return self.network(self.preprocess(image).contiguous(memory_format=torch.channels_last))


def _train(
    network: ThreeExits,
    preprocess: Preprocess,
    data: ImageSet,
    training: _Training,
    kept: Path,
) -> None:
    def say(now: TrainingProgress) -> None:
        if now.step % 20 == 0:
            shares = " ".join(f"{share:.1%}" for share in now.exit_accuracies)
            print(f"step {now.step} of {now.steps}, {shares}", file=sys.stderr, flush=True)

    train(
        _FromPixels(preprocess, network),
        # Rows are in a random order, so the first ones are a sample.
        data.take(np.arange(training.images)),
        recipe=Recipe(
            epochs=training.epochs,
            batch_size=64,
            learning_rate=training.learning_rate,
            schedule="one_cycle",
            horizontal_flip=True,
            label_smoothing=_SMOOTHING,
        ),
        checkpoint=kept.with_suffix(".training.safetensors"),
        progress=say,
    )


def _fit(network: ThreeExits, preprocess: Preprocess, data: ImageSet) -> None:
    """The early exits of a pretrained network, each alone, on what it reads of the frozen rest."""
    network.requires_grad_(False)
    with torch.no_grad():
        batches = []
        for batch in torch.split(torch.from_numpy(data.images[:_FIT_IMAGES]), _BATCH):
            x, read = preprocess(batch.float()), []
            for part in network.parts[:-1]:
                x = part(x)
                read.append(functional.adaptive_avg_pool2d(x, _SIDE))
            batches.append(read)
    labels = torch.from_numpy(data.labels[:_FIT_IMAGES])
    for exit, parts in enumerate(zip(*batches, strict=True)):
        pool, *layers = network.heads[exit].children()
        assert isinstance(pool, nn.AdaptiveAvgPool2d | nn.Identity)
        head = nn.Sequential(*layers, nn.Flatten(), network.exits[exit])
        _fit_head(head.requires_grad_(True), torch.cat(parts), labels)


def _fit_head(head: nn.Module, maps: Tensor, labels: Tensor) -> None:
    steps = _FIT_EPOCHS * (len(maps) // _BATCH)
    optimizer = torch.optim.AdamW(head.parameters(), _FIT_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _FIT_RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    head.train()
    for step in range(steps):
        if step % (steps // _FIT_EPOCHS) == 0:
            order = torch.split(torch.randperm(len(maps), generator=generator), _BATCH)
        chosen = order[step % (steps // _FIT_EPOCHS)]
        seen = maps[chosen].flip(3) if step % 2 else maps[chosen]
        loss = functional.cross_entropy(head(seen), labels[chosen], label_smoothing=_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    head.eval()
