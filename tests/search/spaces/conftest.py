"""Small networks that the static transform is tried on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast, final

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp_export.network import Preprocess
from offramp_search.bases import load_base
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from optuna.distributions import CategoricalDistribution

    from offramp_search.spaces import Architecture

SIZE = (16, 16)


@final
class DenseNet(nn.Module):
    """Concatenates everything, normalises before it convolves, ends its blocks in transitions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(12 + 8 * i) for i in range(3))
        self.layers = nn.ModuleList(
            nn.Conv2d(12 + 8 * i, 8, 3, padding=1, bias=False) for i in range(3)
        )
        self.transition = nn.Conv2d(36, 18, 1)
        self.pool = nn.AvgPool2d(2)
        self.last = nn.Conv2d(18, 8, 3, padding=1)
        self.head = nn.Linear(26, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat([x, layer(functional.relu(norm(x)))], dim=1)
        x = self.pool(self.transition(functional.silu(x)))
        x = torch.cat([x, self.last(x)], dim=1)
        return cast("Tensor", self.head(x.mean((2, 3))))


@final
class MobileNet(nn.Module):
    """Inverted residuals with squeeze-and-excitation, and a split of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 10, 3, 2, 1, bias=False), nn.BatchNorm2d(10), nn.Hardswish(inplace=True)
        )
        self.expand = nn.Sequential(
            nn.Conv2d(10, 30, 1, bias=False), nn.BatchNorm2d(30), nn.ReLU6(inplace=True)
        )
        self.depthwise = nn.Conv2d(30, 30, 3, padding=1, groups=30)
        self.squeeze, self.excite = nn.Conv2d(30, 6, 1), nn.Linear(6, 30)
        self.project = nn.Conv2d(30, 10, 1, bias=False)
        self.grouped = nn.Conv2d(10, 20, 3, 2, 1, groups=5)
        self.side = nn.Conv2d(10, 10, 1)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(20 * 16, 24), nn.ReLU())
        self.classifier = nn.Linear(24, 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        gate = functional.relu(self.squeeze(functional.adaptive_avg_pool2d(y, 1))).flatten(1)
        gate = torch.sigmoid(self.excite(gate)).view(gate.size(0), -1, 1, 1)
        x += self.project(y * gate) * 0.5
        left, right = functional.leaky_relu(self.grouped(x), 0.1).chunk(2, dim=1)
        x = torch.cat([self.side(left), right], dim=1)
        return cast("Tensor", self.classifier(self.head(x)))


@final
class ShuffleNet(nn.Module):
    """ShuffleNetV2: one half of the channels passes by, and a shuffle mixes the halves."""

    def __init__(self, channels: int = 24, blocks: int = 3) -> None:
        super().__init__()
        half = channels // 2
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.shortcut = nn.Sequential(
            *(nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), nn.BatchNorm2d(8)),
            *(nn.Conv2d(8, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
        )
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(i, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
                nn.Conv2d(half, half, 3, 1 + (i == 8), 1, groups=half, bias=False),
                *(nn.BatchNorm2d(half), nn.Conv2d(half, half, 1, bias=False)),
                *(nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
            )
            for i in (8, *(half,) * blocks)
        )
        self.last = nn.Sequential(
            nn.Conv2d(channels, 20, 1, bias=False), nn.BatchNorm2d(20), nn.ReLU(inplace=True)
        )
        self.head = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self._shuffle(torch.cat([self.shortcut(x), self.branches[0](x)], dim=1))
        for branch in self.branches[1:]:
            passing, taken = x.chunk(2, dim=1)
            x = self._shuffle(torch.cat([passing, branch(taken)], dim=1))
        return cast("Tensor", self.head(self.last(x).mean((2, 3))))

    @staticmethod
    def _shuffle(x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        x = x.view(images, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return x.view(images, channels, height, width)


def _base(name: str) -> nn.Module:
    if name == "densenet":
        return DenseNet()
    if name == "mobilenet":
        return MobileNet()
    if name == "shufflenet":
        return ShuffleNet()
    return load_base(name, num_classes=7, image_shape=SIZE).module


@pytest.fixture(scope="session")
def make_base() -> Callable[[str], nn.Module]:
    """Random networks whose batch norms are not what they start as.

    By name; what follows it says how its space is made.
    """

    def make(name: str) -> nn.Module:
        name = re.split(r"[/@:+]", name)[0]
        generator = torch.Generator().manual_seed(5)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(5)
            base = _base(name)
        for module in base.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight.data, module.running_var):
                    assert tensor is not None
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                for tensor in (module.bias.data, module.running_mean):
                    assert tensor is not None
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) / 4)
        return base.eval()

    return make


@pytest.fixture(scope="session")
def make_space(make_base: Callable[[str], nn.Module]) -> Callable[..., StaticTransform]:
    """Spaces of those networks, each made once.

    ``name/4`` has exits that read four by four, ``name@3`` three places to move them to,
    ``name:8`` heads of eight channels, and ``name+sum`` sums over its carry instead of joining it.
    """
    made: dict[tuple[str, int], StaticTransform] = {}

    def make(name: str, num_stages: int) -> StaticTransform:
        numbers = {sign: int(number) for sign, number in re.findall(r"([/@:])(\d+)", name)}
        if (name, num_stages) not in made:
            made[name, num_stages] = StaticTransform(
                make_base(name),
                image_shape=SIZE,
                preprocess=Preprocess(),
                num_stages=num_stages,
                exit_grid=numbers.get("/", 1),
                exit_places=numbers.get("@", 0),
                exit_head_channels=numbers.get(":", 0),
                carry="sum" if name.endswith("+sum") else "concatenate",
            )
        return made[name, num_stages]

    return make


@pytest.fixture(scope="session")
def propose() -> Callable[[StaticTransform, np.random.Generator], Architecture]:
    """Draws a random architecture, which may be refused."""

    def draw(space: StaticTransform, rng: np.random.Generator) -> Architecture:
        return {
            name: str(
                rng.choice([str(choice) for choice in cast("CategoricalDistribution", d).choices])
            )
            for name, d in space.decisions().items()
        }

    return draw


@pytest.fixture(scope="session")
def draw(
    propose: Callable[[StaticTransform, np.random.Generator], Architecture],
) -> Callable[[StaticTransform, np.random.Generator], Architecture]:
    """Draws a random architecture that is not refused."""

    def accepted(space: StaticTransform, rng: np.random.Generator) -> Architecture:
        while True:
            architecture = propose(space, rng)
            if space.refusal(architecture) is None:
                return architecture

    return accepted
