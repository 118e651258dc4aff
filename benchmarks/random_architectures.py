"""Architectures drawn at random from a search space, each exported to all three formats.

Every architecture is built with random weights, exported to LiteRT, ExecuTorch and Core ML, and
each program is run and compared with torch, exit by exit, as ``offramp export`` does it. What a
format refuses is a figure too, with the sentence that it gave.

    .venv/bin/python benchmarks/random_architectures.py [--base vgg_small] [--count 20]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from optuna.distributions import CategoricalDistribution
from torch import nn

from offramp._files import write_atomically
from offramp.errors import ExportError
from offramp_export import export
from offramp_export.targets import parse_target
from offramp_search.bases import load_base
from offramp_search.report import Claim, write_result
from offramp_search.spaces import StaticTransform

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


def static_transform(base_name: str) -> Space:
    """The static transform of a base with random weights, three stages."""
    torch.manual_seed(0)
    base = load_base(base_name, num_classes=_CLASSES, image_shape=(_SIDE, _SIDE))
    for module in base.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            # As training leaves them, so that folding them in wrongly would show.
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return StaticTransform(
        base.module.eval(),
        image_shape=(_SIDE, _SIDE),
        preprocess=base.preprocess,
        num_stages=3,
        groups=4,
    )


SPACES: Mapping[str, Callable[[str], Space]] = {"static_transform": static_transform}
"""Space name -> what makes it of a base network's name; another space is one more line."""


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
    stages = list(space.build(architecture).stages)
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
    parser.add_argument("--space", choices=sorted(SPACES), default="static_transform")
    parser.add_argument("--base", default="vgg_small")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    space = SPACES[arguments.space](arguments.base)
    rng = np.random.default_rng(arguments.seed)
    rows: list[dict[str, Any]] = []
    for place in range(arguments.count):
        architecture = draw(space, rng)
        stem = f"{arguments.space}-{arguments.base}-{arguments.seed}-{place}"
        path = arguments.cache / f"{stem}.json"
        if not path.exists():
            write_atomically(path, json.dumps(prove(space, architecture)).encode())
        rows.append(json.loads(path.read_text()))
        told = (
            f"{name} {found['largest_difference']:.1e}" if found["exported"] else f"{name} refused"
            for name, found in rows[-1]["formats"].items()
        )
        print(f"{place:3}  {'  '.join(told)}", flush=True)
    claims = []
    for name in FORMATS:
        share = sum(row["formats"][name]["exported"] for row in rows) / len(rows)
        text = (
            f"{arguments.space} of {arguments.base}: share of {len(rows)} random architectures "
            f"that export to {name} and answer as torch does"
        )
        claims.append(Claim(text, share, 1.0, share == 1.0))
    write_result(
        arguments.result,
        purpose="Architectures drawn at random from a search space, exported to all formats.",
        figures={"seed": arguments.seed, "architectures": rows},
        claims=claims,
    )


if __name__ == "__main__":
    main()
