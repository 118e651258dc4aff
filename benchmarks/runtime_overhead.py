"""What `predict` costs over the bare runs of its stages, and stages over the unsplit network.

Networks with random weights are exported to LiteRT. An image goes through
`DynamicClassifier.predict` to the last exit, many times, with a clock around each call of the
engine: what a prediction takes beyond the sum of its own stage runs is the overhead. The two are
parts of one call, so a machine that is slow for a second is slow for both; the clock's own time
counts as overhead. It is measured twice for each network: with early exits disabled, as in
`policy="last"`, and with a policy that asks every exit and is never sure, the longest way there is.
All of these take turns of fifty predictions, so that a bad moment of the machine is shared by all.

The same layers are exported once more as a single stage. It takes turns of fifty runs with the bare
stages, to show what the cuts cost; and a process of its own tells what importing the package and
loading a bundle takes. The exported networks are kept in `--folder`, so that a machine can be made
quiet before the second run.

    .venv/bin/python benchmarks/runtime_overhead.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, nn

from offramp import DynamicClassifier
from offramp.bundle import Bundle, Policy
from offramp.latency import Latency
from offramp.runtimes import LiteRTEngine, LiteRTRuntime, open_runtime
from offramp_export import export
from offramp_export.targets import LiteRT
from offramp_search.bases import load_base
from offramp_search.report import Claim, write_result
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

RESULT = Path(__file__).parent / "results" / "runtime_overhead.json"
FOLDER = Path(".cache/benchmarks/runtime_overhead")
RUNS_PER_TURN, WARM_UP_RUNS = 50, 5
SPLIT_TURNS = 20
LARGE_MS = 0.3
GOAL_PERCENT, GOAL_US = 3.0, 15.0
GOAL_LOAD_S, GOAL_RESIDENT_MB = 0.4, 60.0
PROCESSES = 7

PROCESS = """
import json, resource, sys, time
began = time.perf_counter()
from offramp import DynamicClassifier
with DynamicClassifier.load(sys.argv[1], policy="last"):
    seconds = time.perf_counter() - began
    lines = open("/proc/self/status").read().splitlines()
    resident = next(line.split()[1] for line in lines if line.startswith("VmRSS:"))
print(json.dumps({"seconds": seconds, "resident_mb": int(resident) / 1024}))
"""


@final
class Whole(nn.Module):
    """All stages as one, with the last exit only."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """The last logits."""
        carry: tuple[Tensor, ...] = (image,)
        for stage in self.stages:
            logits, *rest = stage(*carry)
            carry = tuple(rest)
        return (logits,)


@final
@dataclass(frozen=True, slots=True)
class Network:
    """One network to measure."""

    name: str
    bundle: Bundle
    whole: Bundle
    program: str


def make_networks(folder: Path, seed: int) -> list[Network]:
    """A three-stage ResNet-20 on images of three sizes."""
    networks = []
    for side in (32, 16, 8):
        torch.manual_seed(seed)
        base = load_base("resnet20", num_classes=10, image_shape=(side, side))
        space = StaticTransform(
            base.module, image_shape=(side, side), preprocess=base.preprocess, num_stages=3
        )
        stages = list(space.build(space.depth_architecture((1 / 3, 2 / 3))).stages)
        images = np.random.default_rng(seed).integers(0, 256, (32, side, side, 3), dtype=np.uint8)
        cut = make_bundle(folder / f"stages_{side}", stages, images)
        whole = make_bundle(folder / f"whole_{side}", [Whole(stages)], images)
        networks += [
            Network(f"ResNet-20 on {side}×{side}, {precision}", cut, whole, f"litert/{precision}")
            for precision in ("float32", "int8")
        ]
    return networks


def make_bundle(path: Path, stages: Sequence[nn.Module], images: NDArray[np.uint8]) -> Bundle:
    """Export stages, unless they are there."""
    if path.exists():
        return Bundle.open(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return export(
        stages,
        images,
        [LiteRT("float32"), LiteRT("int8")],
        path=path,
        labels=[str(index) for index in range(10)],
        calibration_images=images,
    ).bundle


def bare_runs(
    bundle: Bundle, program: str, image: NDArray[np.uint8]
) -> tuple[LiteRTEngine, list[Callable[[], int]]]:
    """The stages of a LiteRT program on chained buffers, with nothing of the SDK in between."""
    engine = LiteRTEngine(bundle.read(bundle.program(program).files[0]), threads=1)
    signatures = {signature.name: signature for signature in engine.signatures()}
    runs = []
    carry = engine.buffers(signatures["stage_0"].inputs)
    # Int8 programs store the image with a zero point of -128.
    carry[0].array[...] = image - 128.0 if carry[0].array.dtype == np.int8 else image
    for place in range(len(signatures)):
        run, outputs = engine.bind(signatures[f"stage_{place}"], carry)
        runs.append(run)
        carry = outputs[1:]
    return engine, runs


def time_ms(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    began_ns = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began_ns) / 1e6


def never_sure(program: str) -> Policy:
    """A policy that asks every exit and always goes on."""
    return Policy(
        name="never_sure",
        program=program,
        signal="max_probability",
        temperatures=(20.0, 20.0, 1.0),
        thresholds=(1.0, 1.0, 0.0),
        enabled=(True, True, True),
    )


@final
class Measured:
    """Whole predictions of one network by one policy, and the stage runs inside of them."""

    def __init__(self, network: Network, policy: Policy | None) -> None:
        self.spent_ns: list[int] = []
        manifest = network.bundle.manifest
        self.image = image_for(network)
        self.classifier = DynamicClassifier(
            clocked_runtime(network, self.spent_ns),
            labels=manifest.labels,
            input_spec=manifest.input,
            policy=policy,
        )
        self.predict_ms: list[float] = []
        self.bare_ms: list[float] = []

    def turn(self) -> None:
        """Some runs that bring code and weights into the caches, and those that count."""
        predict, image, spent_ns = self.classifier.predict, self.image, self.spent_ns
        for run in range(-WARM_UP_RUNS, RUNS_PER_TURN):
            spent_ns.clear()
            began_ns = time.perf_counter_ns()
            prediction = predict(image)
            ended_ns = time.perf_counter_ns()
            assert prediction.exit == len(spent_ns) - 1
            if run >= 0:
                self.predict_ms.append((ended_ns - began_ns) / 1e6)
                self.bare_ms.append(sum(spent_ns) / 1e6)

    def figures(self) -> dict[str, Any]:
        """Medians and 90th percentiles."""
        predict, bare = Latency(tuple(self.predict_ms)), Latency(tuple(self.bare_ms))
        pairs = zip(self.predict_ms, self.bare_ms, strict=True)
        overhead = Latency(tuple(whole - stages for whole, stages in pairs))
        return {
            "predict_ms": {"median": predict.median_ms, "p90": predict.p90_ms},
            "bare_stages_ms": {"median": bare.median_ms, "p90": bare.p90_ms},
            "overhead_us": {"median": 1e3 * overhead.median_ms, "p90": 1e3 * overhead.p90_ms},
            "overhead_percent": 100 * overhead.median_ms / bare.median_ms,
        }


def clocked_runtime(network: Network, spent_ns: list[int]) -> LiteRTRuntime:
    """With a clock around every call of the engine, which the SDK has no reason to offer."""
    clock, note = time.perf_counter_ns, spent_ns.append

    def clocked(run: Callable[[], int]) -> Callable[[], int]:
        def call() -> int:
            began_ns = clock()
            status = run()
            note(clock() - began_ns)
            return status

        return call

    runtime = open_runtime(network.bundle, network.program)
    assert isinstance(runtime, LiteRTRuntime)
    runtime._runs = [clocked(run) for run in runtime._runs]
    return runtime


def measure_split(network: Network, turns: int) -> dict[str, float]:
    """Percent that all stages take over the unsplit network, turn by turn."""
    image = image_for(network)
    kept, stages = bare_runs(network.bundle, network.program, image)
    kept_whole, (whole,) = bare_runs(network.whole, network.program, image)
    percents = []
    with kept, kept_whole:
        for turn in range(1 + turns):
            split_ms = [sum([time_ms(run) for run in stages]) for _ in range(RUNS_PER_TURN)]
            whole_ms = [time_ms(whole) for _ in range(RUNS_PER_TURN)]
            if turn:  # the first one warms up
                percents.append(
                    100 * statistics.median(split_ms) / statistics.median(whole_ms) - 100
                )
    return _spread(percents)


def image_for(network: Network) -> NDArray[np.uint8]:
    """A random image of the network's size."""
    size = network.bundle.manifest.input
    return np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), dtype=np.uint8)


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4)
    return {"median": statistics.median(values), "quartile_1": low, "quartile_3": high}


def cold_start(bundle: Bundle) -> list[dict[str, float]]:
    """What importing and loading take in processes of their own; the first one is thrown away."""
    command = [sys.executable, "-c", PROCESS, str(bundle.path)]
    outputs = [subprocess.check_output(command, text=True) for _ in range(1 + PROCESSES)]
    return [json.loads(output) for output in outputs[1:]]


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=80, help=f"of {RUNS_PER_TURN} runs each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the exported networks")
    arguments = parser.parse_args()

    claims, figures = [], {}
    networks = make_networks(arguments.folder, arguments.seed)
    measured = {
        f"{network.name}, {kind}": Measured(network, policy)
        for network in networks
        for kind, policy in (
            ("no exit asked", None),
            ("every exit asked", never_sure(network.program)),
        )
    }
    for _ in range(arguments.turns):
        for each in measured.values():
            each.turn()
    for name, each in measured.items():
        each.classifier.close()
        figures[name] = found = each.figures()
        bare_ms = found["bare_stages_ms"]["median"]
        micros, percent = found["overhead_us"]["median"], found["overhead_percent"]
        print(f"{name}: bare {bare_ms:.3f} ms, predict +{micros:.1f} µs ({percent:.2f} %)")
        if bare_ms > LARGE_MS:
            claim = f"percent that predict costs over its bare stage runs, {name}"
            claims.append(Claim.at_most(claim, percent, GOAL_PERCENT))
        else:
            claim = f"µs that predict costs over its bare stage runs, {name}"
            claims.append(Claim.at_most(claim, micros, GOAL_US))
    for network in networks:
        split = measure_split(network, SPLIT_TURNS)
        figures[f"{network.name}, split"] = {"percent_over_unsplit": split}
        print(f"{network.name}: stages over the unsplit network {split['median']:+.2f} %")
        claim = f"percent that bare stages take over the unsplit network, {network.name}"
        claims.append(Claim(claim, split["median"], None, True))
    starts = cold_start(networks[0].bundle)
    seconds = statistics.median([start["seconds"] for start in starts])
    resident_mb = statistics.median([start["resident_mb"] for start in starts])
    print(f"import and load: {seconds:.3f} s, {resident_mb:.1f} MB resident")
    claims += [
        Claim.at_most("s to import the package and load a bundle", seconds, GOAL_LOAD_S),
        Claim.at_most("MB resident with a bundle loaded", resident_mb, GOAL_RESIDENT_MB),
    ]
    write_result(
        arguments.result,
        purpose="What predict costs over the bare runs of its stages, and stages over the unsplit "
        "network",
        claims=claims,
        figures={
            "turns": arguments.turns,
            "runs_per_turn": RUNS_PER_TURN,
            "turns_of_the_unsplit_network": SPLIT_TURNS,
            "networks": figures,
            "cold_start": starts,
        },
    )


if __name__ == "__main__":
    main()
