"""What the cuts cost: the chain of a program's stages against the unsplit program.

The networks of ``export_parity.py``, three depth exits each, and a ResNet-20 of thin stages, are
exported to LiteRT and ExecuTorch in float32 and int8: as stages, as a single program that computes
all three exits, and as a single program with the last exit alone. The first over the second is what
splitting costs, the second over the third what early exits compute. All of a network's programs
take turns of fifty runs, in one order and then in the other, so that a bad moment of the machine is
shared. A run is all stages, one right after the other; the image is put in before the clock starts.

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

from cifar10_bases import CACHE as BASES
from export_parity import CACHE, load
from export_parity_networks import NETWORKS, prepare
from offramp._files import write_atomically
from offramp.bundle import Bundle
from offramp.runtimes import open_runtime
from offramp_export import export
from offramp_export.blocks import convert_blocks
from offramp_export.cut import cut
from offramp_export.network import MultiStageNetwork
from offramp_export.targets import parse_target
from offramp_search.bases import load_base
from offramp_search.report import Claim, write_result
from offramp_search.spaces import StaticTransform
from runtime_overhead import Whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from offramp.runtimes import Runtime

RESULT = Path(__file__).parent / "results" / "export_cost.json"
FOLDER = Path(".cache/benchmarks/export_cost")
THIN = "resnet20_thin"
"""Three stages of a quarter, a quarter and half of every layer, which read all before them."""
ALL = (*NETWORKS, THIN)
RUNTIMES = ("litert", "executorch")
PRECISIONS: tuple[Literal["float32", "int8"], ...] = ("float32", "int8")
PIECES = ("stages", "unsplit", "last_exit")
WIDTHS = {16: 32, 32: 16, 64: 8}
"""Channels -> side of the map."""
RUNS_PER_TURN, WARM_UP_RUNS = 50, 5
GOAL_PERCENT = 3.0
_CLASSES = 10
_CONVOLUTIONS = 6
_CALIBRATION_IMAGES, _EXAMPLES, _TEST_IMAGES = 200, 32, 2000


@final
class Unsplit(nn.Module):
    """All stages as one, with the logits of all exits side by side."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.network = MultiStageNetwork(stages)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """``(1, exits * classes)`` logits."""
        return (torch.cat(self.network(image), 1),)


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


def make_bundles(
    name: str, data: Path, bases: Path, cache: Path, folder: Path
) -> dict[str, Bundle]:
    """Each piece of the network, exported unless it is there: a run that was killed goes on."""
    paths = {piece: folder / f"{name}_{piece}.bundle" for piece in PIECES}
    missing = [piece for piece, path in paths.items() if not path.exists()]
    if missing:
        images = load(data, _TEST_IMAGES, cache)
        stages: Sequence[nn.Module]
        if name == THIN:
            stages = _thin(data / "pretrained")
        else:
            made = prepare(
                *(name, data / "pretrained", bases, images.train),
                cache / f"{name}.safetensors",
            )
            stages = cut(made.network, (32, 32), preprocess=made.preprocess)
        pieces: dict[str, Sequence[nn.Module]] = {
            "stages": stages,
            "unsplit": [Unsplit(stages)],
            "last_exit": [Whole(stages)],
        }
        for piece in missing:
            logits = len(stages) * _CLASSES if piece == "unsplit" else _CLASSES
            export(
                pieces[piece],
                images.test.images[:_EXAMPLES],
                [parse_target(f"{kind}/{bits}") for kind in RUNTIMES for bits in PRECISIONS],
                path=paths[piece],
                labels=[str(index) for index in range(logits)],
                calibration_images=images.train.images[:_CALIBRATION_IMAGES],
                overwrite=True,
            )
    return {piece: Bundle.open(path) for piece, path in paths.items()}


def _thin(pretrained: Path) -> list[nn.Module]:
    """Weights say nothing about time, so those of the early exits are not trained."""
    torch.manual_seed(0)
    base = load_base(
        "resnet20",
        num_classes=_CLASSES,
        image_shape=(32, 32),
        weights=pretrained / "resnet20_cifar10.safetensors",
    )
    space = StaticTransform(
        base.module, image_shape=(32, 32), preprocess=base.preprocess, num_stages=3
    )
    return list(space.build(space.width_architecture((0.25, 0.5))).eval().stages)


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


def measure(bundles: Mapping[str, Bundle], turns: int) -> dict[str, Any]:
    """All programs of a network in turns."""
    image = bundles["stages"].vectors().images[0]
    timed = {
        (kind, bits, piece): Timed(open_runtime(bundle, f"{kind}/{bits}"), image, [])
        for kind in RUNTIMES
        for bits in PRECISIONS
        for piece, bundle in bundles.items()
    }
    for turn in range(1 + turns):
        order = list(timed.values())
        for each in order if turn % 2 else reversed(order):
            each.turn()
    figures: dict[str, Any] = {}
    for kind in RUNTIMES:
        for bits in PRECISIONS:
            split, one, last = (timed[kind, bits, piece].turns_ms[1:] for piece in PIECES)
            figures[f"{kind}/{bits}"] = {
                "engine": timed[kind, bits, "stages"].runtime.engine,
                "stages_ms": statistics.median(split),
                "unsplit_ms": statistics.median(one),
                "last_exit_ms": statistics.median(last),
                "percent_over_unsplit": _spread(_percents(split, one)),
                "percent_of_early_exits": _spread(_percents(one, last)),
            }
        for piece in PIECES:
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
        percent = found["percent_over_unsplit"]["median"]
        # How finely layers are cut is what thin stages trade time for, so they have no goal.
        goal = None if name == THIN else GOAL_PERCENT
        made.append(Claim(text, percent, goal, goal is None or percent <= goal))
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
    parser.add_argument("--networks", nargs="+", default=list(ALL), choices=ALL)
    parser.add_argument("--turns", type=int, default=20, help=f"of {RUNS_PER_TURN} runs each")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the exported programs")
    parser.add_argument("--bases", type=Path, default=BASES, help="what cifar10_bases.py made")
    parser.add_argument("--cache", type=Path, default=CACHE, help="of the networks' weights")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.turns < 2:
        parser.error(f"--turns is {arguments.turns}, expected at least 2")
    for folder in (arguments.folder, arguments.cache):
        folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bundles = {
        name: make_bundles(
            *(name, arguments.data, arguments.bases, arguments.cache, arguments.folder)
        )
        for name in arguments.networks
    }
    programs = make_convolutions(arguments.folder)
    convolutions = measure_convolutions(programs, arguments.turns)
    for channels, found in convolutions.items():
        share = found["share_of_float32"]["median"]
        print(f"{channels:>3} channels, int8 {share:.2f} of float32", flush=True)
    figures: dict[str, Any] = {}
    made: list[Claim] = []
    for name, pieces in bundles.items():
        figures[name] = measure(pieces, arguments.turns)
        made += claims(name, figures[name])
        for program, found in figures[name].items():
            print(
                f"{name:14} {program:18} stages {found['stages_ms']:.3f} ms  "
                f"unsplit {found['unsplit_ms']:.3f} ms  "
                f"{found['percent_over_unsplit']['median']:+.2f} %  "
                f"early exits {found['percent_of_early_exits']['median']:+.2f} %",
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
