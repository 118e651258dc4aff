"""Every search method on CIFAR-10 by the same clock, from the same pretrained ResNet-20.

All methods search the static transform under one latency budget, each for the same minutes, with
the same shared weights and the same latency table; unnas searches by jigsaw puzzles instead of
labels, on weights of its own that it trains in its minutes. Each winner is trained by one recipe,
exported, and calibrated; then all of them and the static network are measured in LiteRT on one
thread, image by image, in turns. Beside them stands an exit at half of the multiply-adds, which
nobody had to search: searches begin without landmarks here, so that none is given it.

The pretrained network has seen all training images, so thresholds are certified on one half of the
test images and everything is reported on the other half. Searches look at training images only.

    .venv/bin/python benchmarks/search_cifar10.py --data CIFAR10_FOLDER --weights FILE

`--data` holds train.parquet and test.parquet. What is in `--folder` already is not done again; a
search that was stopped goes on with the minutes it has left. The defaults are meant to take about
60 minutes on two cores, 24 of them searching. `--minutes 0.2 --train-images 300 --epochs 1
--groups 2 --calibration-images 1000 --test-images 100` shows that all of it works.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import numpy as np

from offramp import DynamicClassifier
from offramp._files import write_atomically
from offramp.cli import console
from offramp_search.comparison import hypervolume
from offramp_search.devices import HostDevice, LatencyTable
from offramp_search.pipeline import (
    Measured,
    Method,
    Reporter,
    Settings,
    as_figures,
    load_splits,
    measure_interleaved,
    random_architecture,
    run_pipeline,
    search_label_free,
)
from offramp_search.report import Claim, Point, plot_tradeoff, write_result
from offramp_search.training import Recipe
from s2dnas_cifar10 import depth_architecture, make_space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from offramp_search.pipeline import Outcome
    from offramp_search.spaces import Block

__all__ = ["make_settings"]

RESULT = Path(__file__).parent / "results" / "search_cifar10.json"
METHODS = ("random", *(name for name in get_args(Method) if name != "random"), "unnas")
COMMON = "depth-exits"
PROGRAMS = ("litert/float32", "litert/int8")
CHANCE = 0.1

_ARCHITECTURES_AHEAD = 400
_PLANNED_SHARE = 0.8


def make_settings(arguments: argparse.Namespace) -> Settings:
    """What all methods share, but for the budget."""
    augmented: dict[str, Any] = {"horizontal_flip": True, "pad_crop": 4}
    return Settings(
        source=str(arguments.data),
        base="resnet20",
        base_weights=str(arguments.weights),
        num_stages=2,
        groups=arguments.groups,
        tie=True,
        exit_grid=4,
        exit_head_channels=arguments.exit_head_channels,
        exit_places=6,
        landmarks=False,
        mean_share=arguments.mean_share,
        search_minutes=arguments.minutes,
        search_images=arguments.search_images,
        train_images=arguments.train_images,
        calibration_images=arguments.calibration_images,
        test_images=arguments.test_images,
        shared_recipe=Recipe(epochs=arguments.shared_epochs, learning_rate=0.001, **augmented),
        final_recipe=Recipe(
            epochs=arguments.epochs, learning_rate=0.01, distill_alpha=0.7, **augmented
        ),
        programs=PROGRAMS,
        seed=arguments.seed,
    )


def table_ms(outcome: Outcome) -> float:
    """What the static network takes by the latency table that all methods search with."""
    assert outcome.static_ms is not None
    return outcome.static_ms


def measure_ahead(settings: Settings, folder: Path) -> None:
    """Fill the latency table that every method begins with."""
    space = make_space(settings)
    table = LatencyTable(
        folder, HostDevice(), precision="float32", threads=1, runs=settings.latency_runs
    )
    generator = np.random.default_rng([settings.seed, 1])
    blocks: dict[str, Block] = {}
    for _ in range(_ARCHITECTURES_AHEAD):
        architecture = random_architecture(space, generator)
        blocks |= {block.key: block for stage in space.blocks(architecture) for block in stage}
    table.require(blocks.values())


def prepare(common: Path, folder: Path, names: tuple[str, ...]) -> None:
    """Give a method's folder what is common to all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (folder / name).exists():
            continue
        copying = folder / f"{name}.copying"  # renamed when it is whole
        if (common / name).is_dir():
            shutil.rmtree(copying, ignore_errors=True)
            shutil.copytree(common / name, copying)
        else:
            shutil.copyfile(common / name, copying)
        copying.rename(folder / name)


def run_method(
    method: str, settings: Settings, folder: Path, cache: Path, reporter: Reporter
) -> Outcome:
    """Search with one method, and train, export, certify and measure what it finds."""
    if method != "unnas":
        return run_pipeline(settings, folder, cache=cache, reporter=reporter)
    found = search_label_free(
        replace(settings, method="unnas", objective="jigsaw"),
        folder / "label-free",
        cache=cache,
        reporter=reporter,
        labelled=True,
    )
    settings = replace(settings, architecture=dict(found))
    return run_pipeline(settings, folder, cache=cache, reporter=reporter)


def timed(reporter: Reporter, kept: Path) -> Reporter:
    """A reporter that adds the seconds of searching to those in a file."""

    @contextmanager
    def progress(step: str) -> Iterator[Callable[[int, int | None], None]]:
        began = time.monotonic()
        try:
            with reporter.progress(step) as report:
                yield report
        finally:
            if step in ("Searching", "Relaxed search"):
                write_atomically(kept, str(seconds_in(kept) + time.monotonic() - began).encode())

    return replace(reporter, progress=progress)


def seconds_in(kept: Path) -> float:
    """What was added up so far."""
    return float(kept.read_text()) if kept.exists() else 0.0


def measure_all(
    settings: Settings, folder: Path, cache: Path, outcomes: Mapping[str, Outcome]
) -> dict[str, Measured]:
    """The static network and every winner in turns, on the reported half: ``NAME PROGRAM``."""
    path = folder / f"measured-{'-'.join(outcomes)}.json"
    if not path.exists():
        images = load_splits(settings, cache).test
        with ExitStack() as stack:
            loaded = {}
            for program in PROGRAMS:
                static = next(iter(outcomes.values())).static
                for name, bundle, policy in (
                    ("static", static, "last"),
                    *((name, outcome.dynamic, None) for name, outcome in outcomes.items()),
                ):
                    loaded[f"{name} {program}"] = stack.enter_context(
                        DynamicClassifier.load(bundle, program=program, policy=policy, threads=1)
                    )
            write_atomically(path, msgspec.json.encode(measure_interleaved(loaded, images)))
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Measured])


def share_of(points: list[tuple[float, float]], static_ms: float) -> float:
    """Hypervolume up to the static network's latency and chance, as a share of all there is."""
    area = hypervolume(np.array(points, np.float64), slowest_ms=static_ms, worst_accuracy=CHANCE)
    return area / static_ms / (1 - CHANCE)


def figures_of(
    name: str, outcome: Outcome, measured: Mapping[str, Measured], search_seconds: float
) -> dict[str, Any]:
    """What one method comes to."""
    programs = {}
    # A curve is at the latency of its own run, and so is the static network it is held against.
    static_ms = {row.program: row.static.latency.mean_ms for row in outcome.rows}
    for program in PROGRAMS:
        own, static = measured[f"{name} {program}"], measured[f"static {program}"]
        certificate = outcome.dynamic.policy(program).certificates[0]
        programs[program] = {
            "accuracy": own.accuracy,
            "mean_ms": own.latency.mean_ms,
            "median_ms": own.latency.median_ms,
            "p90_ms": own.latency.p90_ms,
            "mean_ratio": own.latency.mean_ms / static.latency.mean_ms,
            "exit_shares": own.exit_shares(len(outcome.dynamic.manifest.stages)),
            "certified_drop": certificate.limit,
            "hypervolume_of_thresholds": share_of(
                list(outcome.curves[program]), static_ms[program]
            ),
        }
    found = None if outcome.confirmed is None else outcome.confirmed.result
    return {
        "search_minutes": search_seconds / 60,
        "trials": None if found is None else len(found.trials),
        "refused": None if found is None else found.refused,
        "hypervolume_of_search": None
        if found is None
        else share_of(
            [(trial.solution.mean_ms, trial.solution.accuracy) for trial in found.trials],
            table_ms(outcome),
        ),
        "programs": programs,
        "details": as_figures(outcome),
    }


def claims(figures: Mapping[str, Any]) -> list[Claim]:
    """Each method against random search by the same clock."""
    made = []
    random = figures["random"]
    for name, own in figures.items():
        if name in ("static", "random"):
            continue
        if own["hypervolume_of_search"] is not None:
            made.append(
                Claim.at_least(
                    f"{name}: hypervolume of what the search found, over that of random search",
                    own["hypervolume_of_search"] / random["hypervolume_of_search"],
                    1.0,
                )
            )
        for program, row in own["programs"].items():
            beside = random["programs"][program]
            made += [
                Claim(
                    f"{name}: hypervolume of the thresholds of {program}, over random search's",
                    row["hypervolume_of_thresholds"] / beside["hypervolume_of_thresholds"],
                    None,
                    True,
                ),
                Claim(
                    f"{name}: accuracy of {program} less random search's, on the reported half",
                    row["accuracy"] - beside["accuracy"],
                    None,
                    True,
                ),
                Claim(
                    f"{name}: mean latency of {program} over random search's",
                    row["mean_ms"] / beside["mean_ms"],
                    None,
                    True,
                ),
            ]
    return made


def main() -> None:
    """Run every method, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/search_cifar10"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--minutes", type=float, default=3.0, help="of searching, each method")
    parser.add_argument("--mean-share", type=float, default=0.6, help="budget, of the static mean")
    parser.add_argument("--train-images", type=int, default=20_000)
    parser.add_argument("--search-images", type=int, default=1_500, help="to compare with, at most")
    parser.add_argument("--calibration-images", type=int, default=5_000, help="at most")
    parser.add_argument("--test-images", type=int, default=5_000, help="to report on, at most")
    parser.add_argument("--groups", type=int, default=4, help="parts a layer is cut into, at most")
    parser.add_argument(
        "--exit-head-channels", type=int, default=64, help="of the convolution of early exits"
    )
    parser.add_argument("--shared-epochs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2, help="of each winner")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    methods = ["random", *(name for name in arguments.methods if name != "random")]

    began = time.monotonic()
    reporter = Reporter(
        progress=console.progress,
        say=lambda line: print(
            f"[{time.monotonic() - began:5.0f} s] {line}", file=sys.stderr, flush=True
        ),
    )
    settings = make_settings(arguments)
    cache, common = arguments.folder / "cache", arguments.folder / COMMON
    by_depth = replace(settings, architecture=depth_architecture(settings))
    outcomes = {COMMON: run_pipeline(by_depth, common, cache=cache, reporter=reporter)}
    reporter.say("measuring the blocks of many architectures")
    measure_ahead(settings, common / "latency")
    # In milliseconds, because the static network is measured once.
    settings = replace(settings, mean_share=None, mean_ms=outcomes[COMMON].budget.mean_ms)
    seconds = {COMMON: 0.0}
    for method in methods:
        reporter.say(f"--- {method}")
        folder = arguments.folder / method
        prepare(common, folder, ("shared.safetensors", "static.bundle", "latency"))
        if method == "unnas":
            prepare(common, folder / "label-free", ("latency",))
        # Relaxed choices cannot move exits: its exits hang where the cuts of layers leave them.
        own = (
            replace(settings, exit_places=0)
            if method == "unnas"
            else replace(settings, method=method)
        )
        if method in ("pnas", "ddpnas"):
            # They plan for fewer architectures than random search had time for, so that they come
            # to the end of their plans; with the rest of their minutes they look around.
            confirmed = outcomes["random"].confirmed
            assert confirmed is not None
            planned = int(_PLANNED_SHARE * len(confirmed.result.trials))
            own = replace(own, trials=max(1, planned))
        kept = folder / "search-seconds.txt"
        searching = not (folder / "dynamic.bundle").exists()
        outcomes[method] = run_method(
            method, own, folder, cache, timed(reporter, kept) if searching else reporter
        )
        seconds[method] = seconds_in(kept)

    measured = measure_all(settings, arguments.folder, cache, outcomes)
    figures: dict[str, Any] = {
        name: figures_of(name, outcome, measured, seconds[name])
        for name, outcome in outcomes.items()
    }
    print_table(figures, measured)
    plot_tradeoff(
        arguments.result.with_suffix(".png"),
        [
            Point(name, one.latency.mean_ms, one.accuracy, name, is_static=name == "static")
            for name in ("static", *outcomes)
            for one in [measured[f"{name} {PROGRAMS[0]}"]]
        ],
        title=f"Winners of {arguments.minutes:g} minutes of search, {PROGRAMS[0]}, reported half",
    )
    write_result(
        arguments.result,
        purpose="search methods by the same clock, from one pretrained ResNet-20 on CIFAR-10",
        # Where the data lie says nothing about the result.
        command=[
            *("search_cifar10.py", "--data", "CIFAR10_FOLDER", "--weights", arguments.weights.name),
            *("--methods", *methods, "--minutes", str(arguments.minutes)),
            *("--mean-share", str(arguments.mean_share)),
            *("--train-images", str(arguments.train_images)),
            *("--search-images", str(arguments.search_images)),
            *("--calibration-images", str(arguments.calibration_images)),
            *("--test-images", str(arguments.test_images)),
            *("--groups", str(arguments.groups)),
            *("--exit-head-channels", str(arguments.exit_head_channels)),
            *("--shared-epochs", str(arguments.shared_epochs)),
            *("--epochs", str(arguments.epochs), "--seed", str(arguments.seed)),
        ],
        claims=claims(figures),
        figures={
            "reference": {
                "search": {
                    "slowest_ms": table_ms(outcomes[COMMON]),
                    "worst_accuracy": CHANCE,
                },
                "thresholds": {
                    "slowest_ms": "the static network's mean in the run that the curve is from",
                    "worst_accuracy": CHANCE,
                },
                "note": "hypervolumes are shares of the area between the reference and 0 ms at "
                "100 %; the search's of search-validation accuracy and predicted mean latency, the "
                "thresholds' of the winner's other thresholds on the calibration images",
            },
            "static": {
                program: {
                    "accuracy": measured[f"static {program}"].accuracy,
                    "mean_ms": measured[f"static {program}"].latency.mean_ms,
                    "median_ms": measured[f"static {program}"].latency.median_ms,
                    "p90_ms": measured[f"static {program}"].latency.p90_ms,
                }
                for program in PROGRAMS
            },
            "budget_mean_ms": settings.mean_ms,
            "methods": figures,
        },
    )


def print_table(figures: Mapping[str, Any], measured: Mapping[str, Measured]) -> None:
    """One row for each program and network."""
    rows = []
    for program in PROGRAMS:
        static_ms = measured[f"static {program}"].latency.mean_ms
        for name in ("static", *figures):
            one = measured[f"{name} {program}"]
            latency = one.latency
            about = ["-"] * 4
            if name in figures:
                own = figures[name]
                searched, trials = own["hypervolume_of_search"], own["trials"]
                about = [
                    "-" if searched is None else f"{searched:.4f}",
                    f"{own['programs'][program]['hypervolume_of_thresholds']:.4f}",
                    "-" if trials is None else str(trials),
                    f"{own['search_minutes']:.1f}",
                ]
            times = [f"{ms:.3f}" for ms in (latency.mean_ms, latency.median_ms, latency.p90_ms)]
            ratio = f"{latency.mean_ms / static_ms:.2f}"
            rows.append([program, name, f"{one.accuracy:.2%}", *times, ratio, *about])
    columns = ["program", "network", "accuracy", "mean ms", "median", "p90", "ratio"]
    console.table([*columns, "search HV", "thresholds HV", "trials", "minutes"], rows)


if __name__ == "__main__":
    main()
