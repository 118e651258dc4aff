"""How convolutions read the carry: joined with their stage's own channels, or summed over.

Architectures of ResNet-20's static transform are built both ways, with the same weights. Both are
converted into one LiteRT program, every stage a signature, and these take turns; so each ratio is
one of a single run. A chain is the sum of its stages' medians.

    .venv/bin/python benchmarks/carry.py prepare [--cache FOLDER]
    .venv/bin/python benchmarks/carry.py measure [--cache FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from offramp._files import write_atomically
from offramp_export.blocks import convert_blocks
from offramp_search.bases import load_base
from offramp_search.devices import HostDevice, stages_as_blocks
from offramp_search.pipeline._supernet import random_architecture
from offramp_search.report import Claim, write_result
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offramp_search.spaces import Architecture

RESULT = Path(__file__).parent / "results" / "carry.json"
CACHE = Path(".cache/benchmarks/carry")
PRECISIONS: tuple[Literal["float32", "int8"], ...] = ("float32", "int8")
CARRIES: tuple[Literal["concatenate", "sum"], ...] = ("concatenate", "sum")
RUNS = 300
_SHAPE = (32, 32)


def spaces(stages: int) -> Mapping[str, StaticTransform]:
    """The same space with either carry."""
    torch.manual_seed(0)
    base = load_base("resnet20", num_classes=10, image_shape=_SHAPE)
    return {
        carry: StaticTransform(
            base.module.eval(),
            image_shape=_SHAPE,
            preprocess=base.preprocess,
            num_stages=stages,
            carry=carry,
        )
        for carry in CARRIES
    }


def networks() -> dict[str, dict[str, Any]]:
    """Name of an architecture -> carry -> a built network."""
    two, three = spaces(2), spaces(3)
    chosen: dict[str, tuple[Mapping[str, StaticTransform], Architecture]] = {}
    chosen["thin (0.5)"] = (two, two["sum"].width_architecture((0.5,)))
    chosen["thin (0.25, 0.5)"] = (three, three["sum"].width_architecture((0.25, 0.5)))
    chosen["depth (0.33, 0.66)"] = (three, three["sum"].depth_architecture((0.33, 0.66)))
    rng = np.random.default_rng(0)
    for number in range(2):
        chosen[f"random {number}"] = (three, random_architecture(three["sum"], rng))
    return {
        name: {carry: space.build(architecture) for carry, space in both.items()}
        for name, (both, architecture) in chosen.items()
    }


def _program(cache: Path, precision: Literal["float32", "int8"], name: str) -> Path:
    words = "".join(letter if letter.isalnum() else "_" for letter in name)
    return cache / f"{precision}-{words}.tflite"


def prepare(cache: Path) -> None:
    """Convert all networks, once for each precision."""
    cache.mkdir(parents=True, exist_ok=True)
    made = networks()
    for precision in PRECISIONS:
        for name, both in made.items():
            path = _program(cache, precision, name)
            if not path.exists():
                blocks = {
                    f"{carry}_{stage}": block
                    for carry, network in both.items()
                    for stage, block in enumerate(stages_as_blocks(network, _SHAPE).values())
                }
                write_atomically(path, convert_blocks(blocks, precision=precision))
            print(f"{path.name}: {path.stat().st_size} bytes", flush=True)


def measure(cache: Path, result: Path) -> None:
    """Time every stage, print and write."""
    names = list(networks())
    rows: list[dict[str, Any]] = []
    claims = []
    for precision in PRECISIONS:
        ratios = []
        for name in names:
            program = _program(cache, precision, name).read_bytes()
            taken = HostDevice().measure_signatures(program, threads=1, runs=RUNS)
            row: dict[str, Any] = {"precision": precision, "architecture": name}
            for carry in CARRIES:
                stages = sorted(key for key in taken if key.startswith(f"{carry}_"))
                row[carry] = {
                    "stage_median_ms": [taken[key].median_ms for key in stages],
                    "stage_p90_ms": [taken[key].p90_ms for key in stages],
                }
            joined, summed = (sum(row[carry]["stage_median_ms"]) for carry in CARRIES)
            row["ratio"] = summed / joined
            ratios.append(row["ratio"])
            rows.append(row)
            print(f"{precision:8} {name:20} {joined:7.3f} ms joined {summed:7.3f} ms summed")
        mean = float(np.exp(np.mean(np.log(ratios))))
        text = (
            f"{precision}: time of ResNet-20's chains with a summed carry over that with a "
            f"concatenated one, geometric mean of {len(names)} architectures"
        )
        claims.append(Claim(text, mean, 1.0, mean < 1.0))
        print(f"{precision:8} ratio {mean:.3f}")
    write_result(
        result,
        purpose="ResNet-20's architectures with a carry that is summed over, or joined.",
        figures={"runs": RUNS, "threads": 1, "chains": rows},
        claims=claims,
    )


def main() -> None:
    """Convert or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["prepare", "measure"])
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "prepare":
        prepare(arguments.cache)
    else:
        measure(arguments.cache, arguments.result)


if __name__ == "__main__":
    main()
