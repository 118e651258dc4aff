"""Predicted stage latency against measured, for random architectures.

Random two- and three-stage architectures of the static transform, of two bases (a small VGG of
28×28 images and ResNet-20 of 32×32), are predicted from a latency table: the sum of the blocks of
each stage, measured once, alone. Every network is then exported as one LiteRT program and its
stages timed one after the other, as `predict` runs them. The error of a stage is
|predicted - measured| / measured; its median over all stages is the claim, and the error of whole
networks and the rank correlation stand beside it.

The table is measured anew by every run, so that both sides meet the same machine.

    .venv/bin/python benchmarks/latency_prediction.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from offramp.profiling import measure_stages
from offramp.runtimes import open_runtime
from offramp_export import export
from offramp_export.targets import LiteRT
from offramp_search.bases import load_base
from offramp_search.devices import HostDevice, LatencyTable
from offramp_search.pipeline import random_architecture
from offramp_search.report import Claim, write_result
from offramp_search.spaces import StaticTransform

RESULT = Path(__file__).parent / "results" / "latency_prediction.json"
BASES = (("vgg_small", (28, 28), 2), ("resnet20", (32, 32), 3))
"""Name, image height and width, number of stages."""


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", type=int, default=20, help="in all, over both bases")
    parser.add_argument("--runs", type=int, default=100, help="samples of each block and stage")
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    result = arguments.result or RESULT.with_stem(f"{RESULT.stem}_{arguments.precision}")

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        table = LatencyTable(
            Path(folder), HostDevice(), precision=arguments.precision, runs=arguments.runs
        )
        for name, image_shape, num_stages in BASES:
            rows += compare(
                name,
                image_shape,
                num_stages,
                table,
                arguments.precision,
                arguments.architectures // len(BASES),
                arguments.runs,
                np.random.default_rng(arguments.seed),
            )

    stage_errors = [error for row in rows for error in row["stage_errors"]]
    whole_errors = [abs(sum(row["predicted_ms"]) / sum(row["measured_ms"]) - 1.0) for row in rows]
    stage_percent = 100 * statistics.median(stage_errors)
    whole_percent = 100 * statistics.median(whole_errors)
    ranks = rank_correlation(
        [sum(row["predicted_ms"]) for row in rows], [sum(row["measured_ms"]) for row in rows]
    )
    print(f"median relative error of a stage    {stage_percent:6.2f} %")
    print(f"90th percentile of it               {100 * np.quantile(stage_errors, 0.9):6.2f} %")
    print(f"median relative error of a network  {whole_percent:6.2f} %")
    print(f"rank correlation of whole networks  {ranks:6.3f}")
    write_result(
        result,
        claims=[
            Claim("median relative error of a stage's latency, percent", stage_percent, None, True),
            Claim(
                "median relative error of a network's latency, percent", whole_percent, None, True
            ),
            Claim("Spearman rank correlation of whole networks", ranks, None, True),
        ],
        figures={
            "precision": arguments.precision,
            "p90_stage_error_percent": 100 * float(np.quantile(stage_errors, 0.9)),
            "architectures": rows,
        },
    )


def compare(
    name: str,
    image_shape: tuple[int, int],
    num_stages: int,
    table: LatencyTable,
    precision: Literal["float32", "int8"],
    count: int,
    runs: int,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    """Predict and measure random architectures of one base."""
    torch.manual_seed(0)
    base = load_base(name, num_classes=10, image_shape=image_shape)
    space = StaticTransform(
        base.module, image_shape=image_shape, preprocess=base.preprocess, num_stages=num_stages
    )
    drawn = [random_architecture(space, generator) for _ in range(count)]
    blocks = [space.blocks(architecture) for architecture in drawn]
    table.require(
        (block for network in blocks for stage in network for block in stage),
        lambda done, missing: print(f"{name}: {done} of {missing} blocks measured", flush=True),
    )
    rows = []
    for architecture, cut in zip(drawn, blocks, strict=True):
        predicted = [latency.ms for latency in table.predict(cut)]
        measured = measure(space, architecture, image_shape, precision, runs, generator)
        errors = [abs(p / m - 1.0) for p, m in zip(predicted, measured, strict=True)]
        rows.append(
            {
                "base": name,
                "architecture": dict(architecture),
                "predicted_ms": predicted,
                "measured_ms": measured,
                "stage_errors": errors,
            }
        )
        shown = "  ".join(f"{p:.3f}/{m:.3f}" for p, m in zip(predicted, measured, strict=True))
        print(f"{name}: predicted/measured ms of each stage  {shown}", flush=True)
    return rows


def measure(
    space: StaticTransform,
    architecture: Any,
    image_shape: tuple[int, int],
    precision: Literal["float32", "int8"],
    runs: int,
    generator: np.random.Generator,
) -> list[float]:
    """Median latency of each stage of the exported network, in milliseconds."""
    images = generator.integers(0, 256, (32, *image_shape, 3), dtype=np.uint8)
    stages = list(space.build(architecture).eval().stages)
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(
            stages,
            images,
            [LiteRT(precision)],
            path=Path(folder) / "bundle",
            labels=[str(index) for index in range(10)],
            calibration_images=images,
        ).bundle
        with open_runtime(bundle) as runtime:
            latencies = measure_stages(runtime, images[0], runs=runs)
    return [latency.median_ms for latency in latencies]


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's, without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


if __name__ == "__main__":
    main()
