"""Predicted stage latency against measured, for random architectures.

Random two- and three-stage architectures of the static transform, of two bases (a small VGG of
28×28 images and ResNet-20 of 32×32), are predicted from a latency table: the sum of the blocks of
each stage, measured alone. Every network is also exported as one LiteRT program and its stages
timed one after the other, as `predict` runs them. The error of a stage is
|predicted - measured| / measured; its median over all stages is the claim, and the error of whole
networks and the rank correlation stand beside it.

Blocks and networks take turns in one process: a machine that gets slower for a while gets slower
for both. How much it did is in the result, as the spread of the turns.

    .venv/bin/python benchmarks/latency_prediction.py

Conversion comes first and takes most of the time; what `--folder` holds is not converted again, so
that the measurement (half a minute) can be repeated alone, on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch

from offramp import Bundle
from offramp._files import write_atomically
from offramp.latency import Latency
from offramp.profiling import device_record, measure_signatures, measure_stages
from offramp.runtimes import open_runtime
from offramp_export import export
from offramp_export.blocks import convert_blocks
from offramp_export.targets import LiteRT
from offramp_search.bases import load_base
from offramp_search.devices import CALL, LatencyTable, record_table
from offramp_search.pipeline import random_architecture
from offramp_search.report import Claim, write_result
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp_search.spaces import Architecture, Block

RESULT = Path(__file__).parent / "results" / "latency_prediction.json"
BASES = (("vgg_small", (28, 28), 2), ("resnet20", (32, 32), 3))
"""Name, image height and width, number of stages."""
GOAL_PERCENT = 10.0
BLOCKS_PER_PROGRAM = 64


@final
@dataclass(frozen=True)
class Network:
    """One architecture: where its program is, and the blocks of each stage."""

    base: str
    architecture: Architecture
    bundle: Path
    blocks: tuple[tuple[Block, ...], ...]


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architectures", type=int, default=20, help="in all, over both bases")
    parser.add_argument("--turns", type=int, default=10, help="how often blocks and networks swap")
    parser.add_argument("--runs", type=int, default=10, help="samples of each in one turn")
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/latency_prediction"))
    parser.add_argument("--convert-only", action="store_true")
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    result = arguments.result or RESULT.with_stem(f"{RESULT.stem}_{arguments.precision}")
    folder = arguments.folder / f"{arguments.precision}-{arguments.seed}-{arguments.architectures}"

    networks = make_networks(folder, arguments)
    programs = make_programs(folder, networks, arguments.precision)
    if arguments.convert_only:
        return
    samples = measure(networks, programs, arguments.turns, arguments.runs)
    table = LatencyTable.recorded(
        record_table(
            folder / "table.json",
            {key: Latency(tuple(taken), 0) for key, taken in samples.blocks.items()},
            device=device_record(),
            precision=arguments.precision,
        )
    )
    rows = [
        compare(network, table, taken)
        for network, taken in zip(networks, samples.stages, strict=True)
    ]
    report(result, rows, samples, arguments)


def make_networks(folder: Path, arguments: argparse.Namespace) -> list[Network]:
    """Draw the architectures, and export those that are not there."""
    networks = []
    for name, image_shape, num_stages in BASES:
        generator = np.random.default_rng(arguments.seed)
        torch.manual_seed(0)
        base = load_base(name, num_classes=10, image_shape=image_shape)
        space = StaticTransform(
            base.module, image_shape=image_shape, preprocess=base.preprocess, num_stages=num_stages
        )
        images = generator.integers(0, 256, (32, *image_shape, 3), dtype=np.uint8)
        for index in range(arguments.architectures // len(BASES)):
            architecture = random_architecture(space, generator)
            path = folder / f"{name}-{index}.bundle"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                export(
                    list(space.build(architecture).stages),
                    images,
                    [LiteRT(arguments.precision)],
                    path=path,
                    labels=[str(label) for label in range(10)],
                    calibration_images=images,
                )
                print(f"{path.name} exported", flush=True)
            networks.append(Network(name, architecture, path, space.blocks(architecture)))
    return networks


def make_programs(
    folder: Path, networks: Sequence[Network], precision: Literal["float32", "int8"]
) -> list[tuple[bytes, list[str]]]:
    """The blocks of all networks in a few programs, and the keys of their signatures, in order."""
    blocks = {CALL.key: CALL}
    for network in networks:
        blocks |= {block.key: block for stage in network.blocks for block in stage}
    programs = []
    keys = list(blocks)
    for start in range(0, len(keys), BLOCKS_PER_PROGRAM):
        some = keys[start : start + BLOCKS_PER_PROGRAM]
        path = folder / f"blocks-{start}.tflite"
        if not path.exists():
            named = {f"block_{place}": blocks[key] for place, key in enumerate(some)}
            content = convert_blocks(
                {name: (block.module(), block.input_shapes) for name, block in named.items()},
                precision=precision,
            )
            write_atomically(path, content)
            print(f"{start + len(some)} of {len(keys)} blocks converted", flush=True)
        programs.append((path.read_bytes(), some))
    return programs


@final
@dataclass(frozen=True)
class Samples:
    """What was measured: milliseconds per block key, and per network and stage."""

    blocks: dict[str, list[float]]
    stages: list[list[list[float]]]
    turn_medians: list[tuple[float, float]]


def measure(
    networks: Sequence[Network],
    programs: Sequence[tuple[bytes, list[str]]],
    turns: int,
    runs: int,
) -> Samples:
    """Blocks, then networks, and again."""
    blocks: dict[str, list[float]] = {key: [] for _, keys in programs for key in keys}
    stages: list[list[list[float]]] = [[[] for _ in network.blocks] for network in networks]
    medians = []
    for turn in range(turns):
        of_blocks = 0.0
        for content, keys in programs:
            taken = measure_signatures(content, runs=runs, warmup_runs=3)
            for key, latency in zip(keys, taken.values(), strict=True):
                blocks[key] += latency.samples_ms
                of_blocks += statistics.median(latency.samples_ms)
        of_networks = 0.0
        for network, lists in zip(networks, stages, strict=True):
            bundle = Bundle.open(network.bundle)
            with open_runtime(bundle) as runtime:
                latencies = measure_stages(
                    runtime, bundle.vectors().images[0], runs=runs, warmup_runs=3
                )
            for samples, latency in zip(lists, latencies, strict=True):
                samples += latency.samples_ms
                of_networks += statistics.median(latency.samples_ms)
        medians.append((of_blocks, of_networks))
        print(
            f"turn {turn + 1} of {turns}: all blocks {of_blocks:.2f} ms, all networks "
            f"{of_networks:.2f} ms",
            flush=True,
        )
    return Samples(blocks, stages, medians)


def compare(network: Network, table: LatencyTable, taken: list[list[float]]) -> dict[str, Any]:
    """Predicted beside measured."""
    predicted = [latency.ms for latency in table.predict(network.blocks)]
    measured = [statistics.median(samples) for samples in taken]
    shown = "  ".join(f"{p:.3f}/{m:.3f}" for p, m in zip(predicted, measured, strict=True))
    print(f"{network.base}: predicted/measured ms of each stage  {shown}")
    return {
        "base": network.base,
        "architecture": dict(network.architecture),
        "blocks": [len(stage) for stage in network.blocks],
        "predicted_ms": predicted,
        "measured_ms": measured,
        "stage_errors": [abs(p / m - 1.0) for p, m in zip(predicted, measured, strict=True)],
    }


def report(
    path: Path, rows: list[dict[str, Any]], samples: Samples, arguments: argparse.Namespace
) -> None:
    """Print the errors and write the result."""
    stage_errors = [error for row in rows for error in row["stage_errors"]]
    ratios = [sum(row["predicted_ms"]) / sum(row["measured_ms"]) for row in rows]
    stage_percent = 100 * statistics.median(stage_errors)
    whole_percent = 100 * statistics.median(abs(ratio - 1.0) for ratio in ratios)
    p90_percent = 100 * float(np.quantile(stage_errors, 0.9))
    ranks = rank_correlation(
        [sum(row["predicted_ms"]) for row in rows], [sum(row["measured_ms"]) for row in rows]
    )
    drift = [max(turn) / min(turn) for turn in zip(*samples.turn_medians, strict=True)]
    print(f"median relative error of a stage    {stage_percent:6.2f} %")
    print(f"90th percentile of it               {p90_percent:6.2f} %")
    print(f"median relative error of a network  {whole_percent:6.2f} %")
    print(f"median of predicted over measured   {statistics.median(ratios):6.3f}")
    print(f"rank correlation of whole networks  {ranks:6.3f}")
    print(f"slowest over fastest turn           {drift[0]:6.3f} blocks, {drift[1]:.3f} networks")
    write_result(
        path,
        purpose="Latency of stages predicted from a table of blocks, against that measured in turn",
        claims=[
            Claim.at_most(
                "median relative error of a stage's latency, percent", stage_percent, GOAL_PERCENT
            ),
            Claim.at_most(
                "median relative error of a network's latency, percent", whole_percent, GOAL_PERCENT
            ),
            Claim("Spearman rank correlation of whole networks", ranks, None, True),
        ],
        figures={
            "precision": arguments.precision,
            "turns": arguments.turns,
            "runs_in_a_turn": arguments.runs,
            "p90_stage_error_percent": p90_percent,
            "predicted_over_measured": statistics.median(ratios),
            "slowest_over_fastest_turn": {"blocks": drift[0], "networks": drift[1]},
            "architectures": rows,
        },
        command=[
            "latency_prediction.py",
            *("--precision", arguments.precision, "--turns", str(arguments.turns)),
            *("--runs", str(arguments.runs), "--architectures", str(arguments.architectures)),
        ],
    )


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's, without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


if __name__ == "__main__":
    main()
