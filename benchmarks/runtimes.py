"""What each runtime takes to start, to hold and to run one network.

A three-stage ResNet-20 with random weights is exported to LiteRT and ExecuTorch. Processes of their
own, which take turns, import the package, load the program and run whole images, in LiteRT, in
ExecuTorch by the shim, in ExecuTorch by its Python package and torch, and, where a Python that has
it is named, in tflite-runtime.

    .venv/bin/python benchmarks/runtimes.py --tflite-python .cache/tflite/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offramp.bundle import Bundle
from offramp.latency import Latency
from offramp.runtimes import build_shim
from offramp_export import export
from offramp_export.targets import ExecuTorch, LiteRT
from offramp_search.bases import load_base
from offramp_search.report import Claim, write_result
from offramp_search.spaces import StaticTransform

RESULT = Path(__file__).parent / "results" / "runtimes.json"
FOLDER = Path(".cache/benchmarks/runtimes")
GOAL_LOAD_S, GOAL_RESIDENT_MB = 0.4, 60.0
SIDE = 32
WAYS = {
    "LiteRT": ("litert", "litert/float32"),
    "LiteRT, int8": ("litert", "litert/int8"),
    "tflite-runtime": ("tflite-runtime", "litert/float32"),
    "tflite-runtime, int8": ("tflite-runtime", "litert/int8"),
    "ExecuTorch, shim": ("executorch-shim", "executorch/float32"),
    "ExecuTorch, torch": ("executorch-torch", "executorch/float32"),
}

PROCESS = """
import json, sys, time
began = time.perf_counter()
import numpy
from offramp.bundle import Bundle
from offramp.runtimes import open_runtime
path, program, runtime = sys.argv[1:]
opened = open_runtime(Bundle.open(path), program, runtime=runtime)
seconds = time.perf_counter() - began
lines = open("/proc/self/status").read().splitlines()
resident = next(line.split()[1] for line in lines if line.startswith("VmRSS:"))
image = numpy.full((32, 32, 3), 128, numpy.uint8)
samples = []
for turn in range(500):
    began = time.perf_counter()
    opened.start(image)
    for stage in range(opened.num_stages):
        opened.run(stage)
    samples.append(1e3 * (time.perf_counter() - began))
print(json.dumps({
    "engine": opened.engine, "seconds": seconds, "resident_mb": int(resident) / 1024,
    "samples_ms": samples[100:], "torch": "torch" in sys.modules,
}))
"""


def make_bundle(path: Path, seed: int) -> Bundle:
    """Export the network, unless it is there."""
    if path.exists():
        return Bundle.open(path)
    torch.manual_seed(seed)
    base = load_base("resnet20", num_classes=10, image_shape=(SIDE, SIDE))
    space = StaticTransform(
        base.module, image_shape=(SIDE, SIDE), preprocess=base.preprocess, num_stages=3
    )
    stages = list(space.build(space.depth_architecture((1 / 3, 2 / 3))).stages)
    images = np.random.default_rng(seed).integers(0, 256, (32, SIDE, SIDE, 3), dtype=np.uint8)
    return export(
        stages,
        images,
        [LiteRT("float32"), LiteRT("int8"), ExecuTorch()],
        path=path,
        labels=[str(index) for index in range(10)],
        calibration_images=images,
    ).bundle


def start(python: str, bundle: Bundle, runtime: str, program: str) -> dict[str, Any]:
    """One process: import, load, run."""
    # Of the shared OpenBLAS's threads nothing here makes use.
    done = subprocess.run(
        [python, "-c", PROCESS, str(bundle.path), program, runtime],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Export, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the bundle is kept")
    parser.add_argument("--tflite-python", help="a Python that has tflite-runtime and offramp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--prepare", action="store_true", help="export and build, and stop there")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    bundle = make_bundle(given.folder / "bundle", given.seed)
    build_shim()
    if given.prepare:
        return
    ways = {
        name: way
        for name, way in WAYS.items()
        if given.tflite_python is not None or way[0] != "tflite-runtime"
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    # The first round fills the disk's cache and passes the self-test; it is not counted.
    for turn in range(given.rounds + 1):
        for name, (runtime, program) in ways.items():
            python = given.tflite_python if runtime == "tflite-runtime" else sys.executable
            found = start(python, bundle, runtime, program)
            if turn:
                runs[name].append(found)
    table: dict[str, dict[str, Any]] = {}
    print(f"{'runtime':22} {'start s':>8} {'resident MB':>12} {'median ms':>10} {'p90 ms':>8}")
    for name, found_runs in runs.items():
        latency = Latency(tuple(sample for run in found_runs for sample in run["samples_ms"]))
        table[name] = {
            "engine": found_runs[0]["engine"],
            "start_s": statistics.median(run["seconds"] for run in found_runs),
            "resident_mb": statistics.median(run["resident_mb"] for run in found_runs),
            "median_ms": latency.median_ms,
            "p90_ms": latency.p90_ms,
            "imports_torch": found_runs[0]["torch"],
            "runs": found_runs,
        }
        row = table[name]
        print(
            f"{name:22} {row['start_s']:8.3f} {row['resident_mb']:12.1f} "
            f"{row['median_ms']:10.3f} {row['p90_ms']:8.3f}"
        )
    shim, package = table["ExecuTorch, shim"], table["ExecuTorch, torch"]
    claims = [
        Claim.at_most(f"{what}, {way}", table[way][key], goal)
        for way in ("ExecuTorch, shim", "LiteRT")
        for what, key, goal in (
            ("seconds to import and load", "start_s", GOAL_LOAD_S),
            ("resident MB after loading", "resident_mb", GOAL_RESIDENT_MB),
        )
    ] + [
        Claim.at_most(f"{what}, ExecuTorch by the shim over torch", shim[key] / package[key], 1.0)
        for what, key in (
            ("time to import and load", "start_s"),
            ("resident memory", "resident_mb"),
            ("median latency", "median_ms"),
        )
    ]
    for claim in claims:
        print(f"{claim.claim}: {claim.value:.3g}, goal {claim.goal}")
    write_result(
        given.out,
        claims=claims,
        figures={"rounds": given.rounds, "runtimes": table},
        purpose="What each runtime takes to start, to hold and to run one network.",
    )


if __name__ == "__main__":
    main()
