"""Architectures drawn at random from every search space, each exported to all three formats.

Twenty cells, and twenty of the static transform, spread over four bases: plain, residual, inverted
residuals, and one with grouped convolutions, channel shuffles and squeeze-and-excitation. Every
architecture is built with random weights, exported to LiteRT, ExecuTorch and Core ML, and each
program is run and compared with torch, exit by exit, as ``offramp export`` does it. What a format
refuses is a figure too, with the sentence that it gave. What is measured is kept, so a killed run
goes on.

    .venv/bin/python benchmarks/random_architectures.py [--spaces cell]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn
from torch.nn import functional

from offramp._files import write_atomically
from offramp.errors import ExportError
from offramp_export import Preprocess, export
from offramp_export.targets import parse_target
from offramp_search.bases import load_base
from offramp_search.report import Claim, write_result
from offramp_search.spaces import Cell, StaticTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from offramp_search.spaces import Architecture, Space

RESULT = Path(__file__).parent / "results" / "random_architectures.json"
CACHE = Path(".cache/benchmarks/random_architectures")
FORMATS = ("litert/float32", "executorch/float32", "coreml/float16")
_SIDE = 32
_CLASSES = 10
_IMAGES = 4
_TRIES = 10_000


@final
class Shuffled(nn.Module):
    """Blocks of ShuffleNetV2 with grouped convolutions, weighed by squeeze-and-excitation."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        half = channels // 2
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()),
                *(nn.Conv2d(half, half, 3, 1, 1, groups=4, bias=False), nn.BatchNorm2d(half)),
                *(nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()),
            )
            for _ in range(3)
        )
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Sequential(nn.Conv2d(channels, 48, 3, 2, 1), nn.BatchNorm2d(48), nn.ReLU())
        self.head = nn.Linear(48, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        for branch in self.branches:
            passing, taken = x.chunk(2, dim=1)
            x = torch.cat([passing, branch(taken)], dim=1)
            images, channels, height, width = x.shape
            x = x.view(images, 2, channels // 2, height, width).transpose(1, 2).contiguous()
            x = x.view(images, channels, height, width)
        x = x * torch.sigmoid(self.excite(functional.relu(self.squeeze(self.pool(x)))))
        logits: Tensor = self.head(self.pool(self.last(x)).flatten(1))
        return logits


def static_transform(base_name: str) -> Space:
    """The static transform of a base with random weights, three stages."""
    torch.manual_seed(0)
    if base_name == "shuffled":
        module: nn.Module = Shuffled()
        preprocess = Preprocess()
    else:
        base = load_base(base_name, num_classes=_CLASSES, image_shape=(_SIDE, _SIDE))
        module, preprocess = base.module, base.preprocess
    _unsettle(module)
    return StaticTransform(
        module.eval(),
        image_shape=(_SIDE, _SIDE),
        preprocess=preprocess,
        num_stages=3,
        groups=4,
    )


def cell() -> Space:
    """Five cells of up to three blocks, three stages."""
    return Cell(image_shape=(_SIDE, _SIDE), num_classes=_CLASSES, num_stages=3, blocks=3, filters=8)


def _unsettle(module: nn.Module) -> None:
    """Batch norms as training leaves them, so that folding them in wrongly would show."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 1.5)


BASES = ("vgg_small", "resnet20", "mobilenet_v2", "shuffled")
SPACES: Mapping[str, tuple[Callable[[], Space], int]] = {
    **{
        f"static_transform of {base}": (partial(static_transform, base), 20 // len(BASES))
        for base in BASES
    },
    "cell": (cell, 20),
}
"""Space name -> what makes it, and how many architectures are drawn; another is one more line."""


def draw(space: Space, rng: np.random.Generator) -> Architecture:
    """An architecture that the space does not refuse, every choice equally likely.

    Raises:
        ValueError: None was found in 10,000 tries.
    """
    for _ in range(_TRIES):
        architecture: dict[str, str | int] = {}
        for name, distribution in space.decisions().items():
            assert isinstance(distribution, CategoricalDistribution)
            choice = distribution.choices[int(rng.integers(len(distribution.choices)))]
            assert isinstance(choice, str | int)
            architecture[name] = choice
        if space.refusal(architecture) is None:
            return architecture
    raise ValueError(f"the space refused {_TRIES} architectures in a row")


def prove(space: Space, architecture: Architecture) -> dict[str, Any]:
    """Export to each format on its own; what each differs from torch, or why it refused."""
    torch.manual_seed(0)
    network = space.build(architecture)
    _unsettle(network)
    stages = list(network.eval().stages)
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, _SIDE, _SIDE, 3), dtype=np.uint8)
    found: dict[str, Any] = {"architecture": dict(architecture), "formats": {}}
    for name in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = export(
                    stages,
                    images,
                    [parse_target(name)],
                    path=Path(folder) / "bundle",
                    labels=[str(label) for label in range(_CLASSES)],
                )
            except ExportError as error:
                found["formats"][name] = {"exported": False, "refusal": str(error)}
                continue
        (parity,) = result.parity
        found["formats"][name] = {
            "exported": True,
            "largest_difference": max(exit.difference for exit in parity.exits),
            "tolerance": parity.tolerance,
        }
    return found


def main() -> None:
    """Draw, export, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spaces", nargs="+", choices=sorted(SPACES), default=list(SPACES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    figures: dict[str, list[dict[str, Any]]] = {}
    claims = []
    for name in arguments.spaces:
        figures[name] = rows = measure(name, arguments.seed, arguments.cache)
        for program in FORMATS:
            share = sum(row["formats"][program]["exported"] for row in rows) / len(rows)
            text = (
                f"{name}: share of {len(rows)} random architectures that export to {program} and "
                "answer as torch does"
            )
            claims.append(Claim(text, share, 1.0, share == 1.0))
        write_result(
            arguments.result,
            purpose="Architectures drawn at random from each search space, in all formats.",
            figures={"seed": arguments.seed, "architectures": figures},
            claims=claims,
        )


def measure(name: str, seed: int, cache: Path) -> list[dict[str, Any]]:
    """All architectures of one space."""
    make, count = SPACES[name]
    space = make()
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for place in range(count):
        architecture = draw(space, rng)
        path = cache / f"{name.replace(' ', '-')}-{seed}-{place}.json"
        if not path.exists():
            write_atomically(path, json.dumps(prove(space, architecture)).encode())
        rows.append(json.loads(path.read_text()))
        told = (
            f"{program} {found['largest_difference']:.1e}"
            if found["exported"]
            else f"{program} refused"
            for program, found in rows[-1]["formats"].items()
        )
        print(f"{name:32} {place:3}  {'  '.join(told)}", flush=True)
    return rows


if __name__ == "__main__":
    main()
