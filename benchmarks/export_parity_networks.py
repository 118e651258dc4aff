"""The networks of ``export_parity.py``: three exits each, for CIFAR-10's 32×32 images.

The two ResNets are pretrained. The squeeze-excite network and the dense one are trained for a few
epochs on a few thousand training images. MobileNetV2 and VGG-16 have random weights and batch norms
calibrated on training images. The classifiers of all exits that are neither pretrained nor trained
are fitted to their features by logistic regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from safetensors.torch import load_model, save
from torch import Tensor, nn
from torch.nn import functional

from offramp._files import write_atomically
from offramp_search.bases import load_base

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from offramp_export import Preprocess

__all__ = ["NETWORKS", "Prepared", "ThreeExits", "prepare"]

_BATCH = 100
_CLASSES = 10
_EPOCHS = 4
_NORM_IMAGES = 400
_EXIT_FEATURES = 1024


@final
class ThreeExits(nn.Module):
    """Three parts in a row, with a pooled linear exit after each.

    Exits that read few channels see four by four averages of them, or two by two; the last one sees
    one.

    Args:
        parts: What computes the maps, first to last.
        channels: Of the map that each part ends in.
    """

    def __init__(self, parts: Sequence[nn.Module], channels: Sequence[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        grids = [_grid(width) for width in channels[:-1]] + [1]
        self.pools = nn.ModuleList(nn.AdaptiveAvgPool2d(grid) for grid in grids)
        self.exits = nn.ModuleList(
            nn.Linear(grid * grid * width, _CLASSES)
            for grid, width in zip(grids, channels, strict=True)
        )

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the three classifiers read."""
        found = []
        for part, pool in zip(self.parts, self.pools, strict=True):
            x = part(x)
            found.append(pool(x).flatten(1))
        return tuple(found)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of the three exits."""
        return tuple(
            exit(features) for exit, features in zip(self.exits, self.features(x), strict=True)
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
    """A depthwise-separable residual block whose channels are weighed."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.norm = nn.BatchNorm2d(inputs)
        self.squeeze = nn.Conv2d(inputs, inputs // 4, 1)
        self.excite = nn.Conv2d(inputs // 4, inputs, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.mix = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.last = nn.BatchNorm2d(outputs)
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inside = functional.relu(self.norm(self.spatial(x)))
        weights = torch.sigmoid(self.excite(functional.relu(self.squeeze(self.pool(inside)))))
        out: Tensor = self.last(self.mix(inside * weights))
        return functional.relu(x + out if self.same else out)


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


def _squeeze_excite() -> ThreeExits:
    widths = (24, 48, 96)
    parts = [
        nn.Sequential(_convolution(3, 24), _SqueezeExcite(24, 24, 2), _SqueezeExcite(24, 24, 1)),
        nn.Sequential(_SqueezeExcite(24, 48, 2), _SqueezeExcite(48, 48, 1)),
        nn.Sequential(_SqueezeExcite(48, 96, 2), _SqueezeExcite(96, 96, 1)),
    ]
    return ThreeExits(parts, widths)


def _dense() -> ThreeExits:
    parts, widths, channels = [], [], 16
    for place in range(3):
        layers: list[nn.Module] = (
            [_convolution(3, channels), nn.MaxPool2d(2)]
            if place == 0
            else [nn.Conv2d(channels, channels // 2, 1), nn.AvgPool2d(2)]
        )
        channels = channels if place == 0 else channels // 2
        for _ in range(3):
            layers.append(_Dense(channels, 12))
            channels += 12
        parts.append(nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU()))
        widths.append(channels)
    return ThreeExits(parts, widths)


def _resnet(base: Any) -> ThreeExits:
    stem = nn.Sequential(base.conv1, base.bn1, nn.ReLU())
    parts = [nn.Sequential(stem, base.layer1), base.layer2, base.layer3]
    network = ThreeExits(parts, (16, 32, 64))
    network.exits[2] = base.linear
    return network


def _sequential(base: Any, ends: tuple[int, int], channels: tuple[int, int, int]) -> ThreeExits:
    first, second = ends
    layers = base.features
    return ThreeExits([layers[:first], layers[first:second], layers[second:]], channels)


_SHAPES: dict[str, Callable[[Any], ThreeExits]] = {
    "resnet20": _resnet,
    "resnet56": _resnet,
    "squeeze_excite": lambda _: _squeeze_excite(),
    "dense": lambda _: _dense(),
    "mobilenet_v2": lambda base: _sequential(base, (7, 14), (32, 96, 1280)),
    "vgg16_bn": lambda base: _sequential(base, (14, 24), (128, 256, 512)),
}

NETWORKS = tuple(_SHAPES)
"""All of them; the two that are trained here are in ``_TRAINED``."""

_TRAINED = ("squeeze_excite", "dense")


def prepare(name: str, pretrained: Path, images: Tensor, labels: Tensor, kept: Path) -> Prepared:
    """Make a network and give it the weights it has in the benchmark.

    Args:
        name: One of ``NETWORKS``.
        pretrained: Folder of the ResNets' weights.
        images: ``(images, 32, 32, 3)`` float32 training images, 0 to 255.
        labels: Their classes.
        kept: File with the network's weights; made if it is not there.
    """
    torch.manual_seed(0)
    has_weights = name.startswith("resnet")
    base = load_base(
        "resnet20" if name in _TRAINED else name,
        num_classes=_CLASSES,
        image_shape=(32, 32),
        weights=pretrained / f"{name}_cifar10.safetensors" if has_weights else None,
    )
    network = _SHAPES[name](base.module)
    fresh = not kept.exists()
    if not fresh:
        load_model(network, str(kept))
    pixels = base.preprocess(images)
    if name in _TRAINED:
        if fresh:
            _train(network, pixels, labels)
        weights = f"trained {_EPOCHS} epochs on {len(images)} training images"
    elif has_weights:
        weights = "pretrained; exits 0 and 1 are fitted by logistic regression"
    else:
        if fresh:
            _calibrate_norms(network, pixels[:_NORM_IMAGES])
        weights = "random, calibrated batch norms; all exits are fitted by logistic regression"
    network.eval().requires_grad_(False)
    if fresh and name not in _TRAINED:
        _fit(network, pixels, labels, exits=(0, 1) if has_weights else (0, 1, 2))
    if fresh:
        write_atomically(kept, save(network.state_dict()))
    return Prepared(network, base.preprocess, weights)


def _train(network: ThreeExits, pixels: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = _EPOCHS * -(-len(pixels) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(_EPOCHS):
        for chosen in torch.split(torch.randperm(len(pixels)), _BATCH):
            batch = pixels[chosen]
            batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
            losses = [functional.cross_entropy(out, labels[chosen]) for out in network(batch)]
            optimizer.zero_grad()
            sum(losses, torch.zeros(())).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def _calibrate_norms(network: ThreeExits, pixels: Tensor) -> None:
    """Means and variances as the images give them, so that random weights keep their signal."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    network.train()
    with torch.no_grad():
        for batch in torch.split(pixels, _BATCH):
            network(batch)


def _fit(network: ThreeExits, pixels: Tensor, labels: Tensor, *, exits: tuple[int, ...]) -> None:
    with torch.no_grad():
        batches = [network.features(batch) for batch in torch.split(pixels, _BATCH)]
    for exit in exits:
        layer: Any = network.exits[exit]
        layer.requires_grad_(True)
        _regress(layer, torch.cat([batch[exit] for batch in batches]), labels)
        layer.requires_grad_(False)


def _regress(layer: nn.Linear, features: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=150, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(layer(features), labels)
        value = value + 1e-4 * layer.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
