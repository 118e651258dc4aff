"""What the cuts cost: the chain of a program's stages against the unsplit program.

The networks of ``export_parity.py``, three depth exits each, are exported to LiteRT and ExecuTorch
in float32 and int8, once as stages and once as a single program with the last exit alone. All of a
network's programs take turns of fifty runs, in one order and then in the other, so that a bad
moment of the machine is shared. A run is all stages, one right after the other; the image is put in
before the clock starts. The chain computes the early exits as well, and that is part of its cost.

Six convolutions in a row are measured as well, in LiteRT, for each width of a ResNet-20: what int8
does to a processor's kernels, and nothing else.

The exported programs are kept in ``--folder``, so that a machine can be made quiet before the
second run.

    .venv/bin/python benchmarks/export_cost.py --data FOLDER [--networks resnet20 resnet56]
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
from torch import nn

from export_parity import CACHE, load
from export_parity_networks import NETWORKS, prepare
from offramp._files import write_atomically
from offramp.bundle import Bundle
from offramp.runtimes import open_runtime
from offramp_export import export
from offramp_export.blocks import convert_blocks
from offramp_export.cut import cut
from offramp_export.targets import parse_target
from offramp_search.report import Claim, write_result
from runtime_overhead import Whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from offramp.runtimes import Runtime

RESULT = Path(__file__).parent / "results" / "export_cost.json"
FOLDER = Path(".cache/benchmarks/export_cost")
RUNTIMES = ("litert", "executorch")
PRECISIONS: tuple[Literal["float32", "int8"], ...] = ("float32", "int8")
WIDTHS = {16: 32, 32: 16, 64: 8}
"""Channels -> side of the map."""
RUNS_PER_TURN, WARM_UP_RUNS = 50, 5
GOAL_PERCENT = 3.0
_CONVOLUTIONS = 6
_CALIBRATION_IMAGES, _EXAMPLES, _TEST_IMAGES = 200, 32, 2000


@final
@dataclass(frozen=True, slots=True)
class Timed:
    """One program, and the medians of its turns.

    Attributes:
        runtime: The loaded program.
        image: What it is run on.
        turns_ms: Per turn, the median time of a run.
    """

    runtime: Runtime
    image: NDArray[np.uint8]
    turns_ms: list[float]

    def turn(self) -> None:
        """Some runs that bring code and weights into the caches, and those that count."""
        start, stages = self.runtime.bind()
        runs = [stage.run for stage in stages]
        samples_ms = []
        for _ in range(WARM_UP_RUNS + RUNS_PER_TURN):
            start(self.image)
            began_ns = time.perf_counter_ns()
            for run in runs:
                run()
            samples_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        self.turns_ms.append(statistics.median(samples_ms[WARM_UP_RUNS:]))


def make_bundles(name: str, data: Path, cache: Path, folder: Path) -> tuple[Bundle, Bundle]:
    """The network in stages and in one piece, exported unless it is there."""
    paths = folder / f"{name}_stages.bundle", folder / f"{name}_whole.bundle"
    if not all(path.exists() for path in paths):
        images = load(data, _TEST_IMAGES, cache)
        made = prepare(name, data / "pretrained", images.train, cache / f"{name}.safetensors")
        stages = cut(made.network, (32, 32), preprocess=made.preprocess)
        pieces: tuple[Sequence[nn.Module], ...] = (stages, [Whole(stages)])
        for path, piece in zip(paths, pieces, strict=True):
            export(
                piece,
                images.test.images[:_EXAMPLES],
                [parse_target(f"{kind}/{bits}") for kind in RUNTIMES for bits in PRECISIONS],
                path=path,
                labels=[str(index) for index in range(10)],
                calibration_images=images.train.images[:_CALIBRATION_IMAGES],
                overwrite=True,
            )
    stages_bundle, whole_bundle = map(Bundle.open, paths)
    return stages_bundle, whole_bundle


def make_convolutions(folder: Path) -> dict[str, bytes]:
    """Per precision, a program with one signature for each width, converted unless it is there."""
    programs: dict[str, bytes] = {}
    for precision in PRECISIONS:
        path = folder / f"convolutions_{precision}.tflite"
        if not path.exists():
            blocks = {}
            for channels, side in WIDTHS.items():
                layers = [
                    nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
                    for _ in range(_CONVOLUTIONS)
                ]
                block = nn.Sequential(*layers).eval()
                blocks[f"channels_{channels}"] = (block, ((1, channels, side, side),))
            write_atomically(path, convert_blocks(blocks, precision=precision))
        programs[precision] = path.read_bytes()
    return programs


def measure_convolutions(programs: Mapping[str, bytes], turns: int) -> dict[str, Any]:
    """The two precisions in turns."""
    from ai_edge_litert.interpreter import Interpreter

    loaded = {
        name: Interpreter(model_content=content, num_threads=1)
        for name, content in programs.items()
    }
    figures: dict[str, Any] = {}
    for channels in WIDTHS:
        turns_ms: dict[str, list[float]] = {name: [] for name in loaded}
        for turn in range(1 + turns):
            order = list(loaded)
            for name in order if turn % 2 else reversed(order):
                runner = loaded[name].get_signature_runner(f"channels_{channels}")
                ((edge, entry),) = runner.get_input_details().items()
                given = {edge: np.zeros(entry["shape"], entry["dtype"])}
                samples_ms = []
                for _ in range(WARM_UP_RUNS + RUNS_PER_TURN):
                    began_ns = time.perf_counter_ns()
                    runner(**given)
                    samples_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
                turns_ms[name].append(statistics.median(samples_ms[WARM_UP_RUNS:]))
        ints, floats = turns_ms["int8"][1:], turns_ms["float32"][1:]
        figures[str(channels)] = {
            "float32_ms": statistics.median(floats),
            "int8_ms": statistics.median(ints),
            "share_of_float32": _spread([a / b for a, b in zip(ints, floats, strict=True)]),
        }
    return figures


def measure(stages: Bundle, whole: Bundle, turns: int) -> dict[str, Any]:
    """All programs of a network in turns."""
    image = stages.vectors().images[0]
    timed = {
        (kind, bits, piece): Timed(open_runtime(bundle, f"{kind}/{bits}"), image, [])
        for kind in RUNTIMES
        for bits in PRECISIONS
        for piece, bundle in (("stages", stages), ("whole", whole))
    }
    for turn in range(1 + turns):
        order = list(timed.values())
        for each in order if turn % 2 else reversed(order):
            each.turn()
    figures: dict[str, Any] = {}
    for kind in RUNTIMES:
        for bits in PRECISIONS:
            split, one = (timed[kind, bits, piece].turns_ms[1:] for piece in ("stages", "whole"))
            figures[f"{kind}/{bits}"] = {
                "engine": timed[kind, bits, "stages"].runtime.engine,
                "stages_ms": statistics.median(split),
                "whole_ms": statistics.median(one),
                "percent_over_unsplit": _spread(_percents(split, one)),
            }
        for piece in ("stages", "whole"):
            ints, floats = (timed[kind, bits, piece].turns_ms[1:] for bits in ("int8", "float32"))
            ratios = [a / b for a, b in zip(ints, floats, strict=True)]
            figures[f"{kind}/int8"][f"{piece}_share_of_float32"] = _spread(ratios)
    for each in timed.values():
        each.runtime.close()
    return figures


def _percents(split: Sequence[float], one: Sequence[float]) -> list[float]:
    return [100 * a / b - 100 for a, b in zip(split, one, strict=True)]


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4)
    return {"median": statistics.median(values), "quartile_1": low, "quartile_3": high}


def claims(name: str, figures: dict[str, Any]) -> list[Claim]:
    """What each program set out to show."""
    made = []
    for program, found in figures.items():
        text = f"{name}, {program}: percent that the chain of stages takes over the unsplit program"
        made.append(Claim.at_most(text, found["percent_over_unsplit"]["median"], GOAL_PERCENT))
        if program.endswith("int8"):
            text = f"{name}, {program}: time of the stages, as a share of float32's"
            share = found["stages_share_of_float32"]["median"]
            made.append(Claim(text, share, 1.0, share < 1.0))
    return made


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--turns", type=int, default=20, help=f"of {RUNS_PER_TURN} runs each")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the exported programs")
    parser.add_argument("--cache", type=Path, default=CACHE, help="of the networks' weights")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.turns < 2:
        parser.error(f"--turns is {arguments.turns}, expected at least 2")
    for folder in (arguments.folder, arguments.cache):
        folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bundles = {
        name: make_bundles(name, arguments.data, arguments.cache, arguments.folder)
        for name in arguments.networks
    }
    programs = make_convolutions(arguments.folder)
    convolutions = measure_convolutions(programs, arguments.turns)
    for channels, found in convolutions.items():
        share = found["share_of_float32"]["median"]
        print(f"{channels:>3} channels, int8 {share:.2f} of float32", flush=True)
    figures: dict[str, Any] = {}
    made: list[Claim] = []
    for name, (stages, whole) in bundles.items():
        figures[name] = measure(stages, whole, arguments.turns)
        made += claims(name, figures[name])
        for program, found in figures[name].items():
            print(
                f"{name:14} {program:18} stages {found['stages_ms']:.3f} ms  "
                f"whole {found['whole_ms']:.3f} ms  "
                f"{found['percent_over_unsplit']['median']:+.2f} %",
                flush=True,
            )
    write_result(
        arguments.result,
        purpose="What the chain of stages costs over the unsplit program, and int8 against float32",
        figures={
            "turns": arguments.turns,
            "runs_per_turn": RUNS_PER_TURN,
            "networks": figures,
            "convolutions": convolutions,
        },
        claims=made,
    )


if __name__ == "__main__":
    main()
