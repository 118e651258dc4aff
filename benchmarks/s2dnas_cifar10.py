"""S2DNAS on a pretrained network, CIFAR-10, beside a depth-exit conversion of the same recipe.

Two runs of the pipeline start from the same pretrained static network and from the same shared
weights. One searches the static transform under a latency budget; the other builds exits at
different depths, every unit of the network whole in one stage. Both are trained by one recipe,
exported, calibrated and measured against the static network, image by image, in LiteRT on one
thread. Narrower static networks, trained by the recipe of the searched one, stand beside it, the
static network itself trained on by it (`--smaller-shares 1`), which is what accuracy is lost from,
and five random architectures that keep the budget: for them everything is trained anew, shorter.

The pretrained network has seen all training images, so thresholds are certified on one half of the
test images and everything is reported on the other half.

    .venv/bin/python benchmarks/s2dnas_cifar10.py --data CIFAR10_FOLDER --weights FILE [--base NAME]

`--data` holds train.parquet and test.parquet. What is in `--folder` already is not done again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from comparing import at_equal_accuracy, draw_within, judge, make_trainer
from offramp._files import write_atomically
from offramp.bundle import Bundle
from offramp.cli import console
from offramp_search.bases import load_base
from offramp_search.devices import HostDevice, LatencyTable
from offramp_search.pipeline import (
    COLUMNS,
    Reporter,
    Settings,
    as_figures,
    load_splits,
    run_pipeline,
    table_rows,
)
from offramp_search.report import Claim, write_result
from offramp_search.spaces import StaticTransform
from offramp_search.training import Recipe

if TYPE_CHECKING:
    from offramp_search.pipeline import Outcome

RESULTS = Path(__file__).parent / "results"
MEAN_SPEEDUP_GOALS = {"vgg16_bn": 4.0, "resnet56": 2.0, "resnet20": 1.5, "mobilenet_v2": 2.0}
STAGES = 3
DROP_GOAL = 0.005
RANDOM = 5
PUBLISHED = {
    "MSDNet (Huang et al., arXiv 1703.09844), budgeted": {
        16: 0.910,
        22: 0.929,
        27: 0.933,
        40: 0.9375,
    },
    "RANet (Yang et al., arXiv 2003.07326), budgeted": {11: 0.910, 18: 0.924, 23: 0.933, 50: 0.942},
}
"""Millions of multiply-adds -> accuracy, read off a figure, after 300 epochs on a GPU."""


def make_settings(arguments: argparse.Namespace) -> Settings:
    """What both runs share."""
    return Settings(
        source=str(arguments.data),
        base=arguments.base,
        base_weights=str(arguments.weights),
        num_stages=STAGES,
        groups=4,
        tie=True,
        exit_grid=4,
        exit_head_channels=arguments.exit_head_channels,
        exit_places=8,
        trials=arguments.trials,
        mean_share=arguments.mean_share,
        search_images=3_000,
        train_images=arguments.train_images,
        shared_recipe=Recipe(
            epochs=arguments.shared_epochs,
            learning_rate=arguments.shared_learning_rate,
            horizontal_flip=True,
            pad_crop=4,
        ),
        final_recipe=Recipe(
            epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            horizontal_flip=True,
            pad_crop=4,
            distill_alpha=0.7,
        ),
        smaller_shares=tuple(arguments.smaller_shares),
        limit=arguments.limit,
        programs=("litert/float32", "litert/int8"),
        seed=arguments.seed,
    )


def make_space(settings: Settings) -> StaticTransform:
    """What is searched."""
    weights = None if settings.base_weights is None else Path(settings.base_weights)
    base = load_base(settings.base, num_classes=10, image_shape=(32, 32), weights=weights)
    return StaticTransform(
        base.module,
        image_shape=(32, 32),
        preprocess=base.preprocess,
        num_stages=settings.num_stages,
        groups=settings.groups,
        tie=settings.tie,
        exit_grid=settings.exit_grid,
        exit_head_channels=settings.exit_head_channels,
        exit_places=settings.exit_places,
    )


def depth_architecture(settings: Settings) -> dict[str, str | int]:
    """Exits where a third and two thirds of the multiply-adds are spent."""
    space = make_space(settings)
    shares = [(stage + 1) / settings.num_stages for stage in range(settings.num_stages - 1)]
    return dict(space.depth_architecture(shares))


def beside_random(
    settings: Settings, searched: Outcome, folder: Path, cache: Path
) -> dict[str, dict[str, Any]]:
    """What the search found and random architectures within its budget, all trained shortly."""
    splits = load_splits(settings, cache)
    space = make_space(settings)
    table = LatencyTable(
        folder / "s2dnas" / "latency",
        HostDevice(),
        precision=settings.latency_precision,
        threads=1,
        runs=settings.latency_runs,
    )
    others = draw_within(
        searched.budget,
        RANDOM,
        space,
        table,
        seed=settings.seed,
        besides=[searched.architecture],
    )
    trainer = make_trainer(settings, space, splits, folder / "s2dnas" / "shared.safetensors")
    assert searched.budget.mean_ms is not None
    rows = {}
    (folder / "random").mkdir(exist_ok=True)
    for place, architecture in enumerate((searched.architecture, *others)):
        name = f"random {place}" if place else "s2dnas"
        kept = folder / "random" / f"{place}.json"
        if not kept.exists():
            row = judge(
                *(architecture, trainer, table, space, splits, searched.budget.mean_ms),
                settings.seed,
            )
            write_atomically(kept, msgspec.json.encode(row))
        rows[name] = msgspec.json.decode(kept.read_bytes())
        print(f"{name}: {rows[name]['accuracy']:.2%}", flush=True)
    return rows


def claims(name: str, outcome: Outcome, speedup_goal: float | None) -> list[Claim]:
    """Speed and accuracy of one run against its static network."""
    goals = speedup_goal is not None
    made = []
    for row in outcome.rows:
        made += [
            Claim(
                f"{name}: static {row.program} mean latency over dynamic mean latency",
                row.mean_speedup,
                speedup_goal,
                speedup_goal is None or row.mean_speedup >= speedup_goal,
            ),
            Claim(
                f"{name}: accuracy of static {row.program} minus dynamic, on the reported half",
                row.drop,
                DROP_GOAL if goals else None,
                not goals or row.drop <= DROP_GOAL,
            ),
        ]
        if 1.0 in row.smaller:
            drop = row.smaller[1.0].accuracy - row.dynamic.accuracy
            made.append(
                Claim.at_most(
                    f"{name}: accuracy of static {row.program}, trained on by the same recipe, "
                    "minus dynamic, on the reported half",
                    drop,
                    DROP_GOAL,
                )
            )
        if row.smaller:
            made.append(
                Claim.at_least(
                    f"{name}: mean latency of the smallest static network of equal accuracy over "
                    f"that of dynamic {row.program}",
                    row.speedup_over_equal,
                    1.0,
                )
            )
    return made


def equal_claims(equal: dict[str, dict[str, dict[str, float]]], speedup_goal: float) -> list[Claim]:
    """Speed at the drop that the goal allows, and against the depth exits."""
    made = []
    for program, ours in equal["s2dnas"].items():
        beside = equal["depth exits"][program]
        made += [
            Claim.at_least(
                f"s2dnas: static {program} mean latency over dynamic, at thresholds chosen to lose "
                f"{100 * DROP_GOAL:.1f} points",
                ours["speedup"],
                speedup_goal,
            ),
            Claim.at_most(
                f"s2dnas: accuracy of static {program} less dynamic at these thresholds",
                ours["drop"],
                DROP_GOAL,
            ),
            Claim.at_least(
                f"mean latency of depth exits over that of s2dnas, {program}, at thresholds chosen "
                f"to lose {100 * DROP_GOAL:.1f} points",
                beside["mean_ms"] / ours["mean_ms"],
                1.0,
            ),
        ]
    return made


def main() -> None:
    """Run both, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--base", choices=sorted(MEAN_SPEEDUP_GOALS), default="resnet20")
    parser.add_argument("--folder", type=Path, help="default: runs/s2dnas_cifar10/BASE")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--mean-share", type=float, default=0.65, help="budget, of the static mean")
    parser.add_argument(
        "--exit-head-channels", type=int, default=0, help="of the convolution of early exits"
    )
    parser.add_argument("--train-images", type=int, default=40_000)
    parser.add_argument("--shared-epochs", type=int, default=1)
    parser.add_argument(
        "--shared-learning-rate",
        type=float,
        default=0.001,
        help="the weights are pretrained: a large one wipes out what they know",
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--limit", type=float, default=0.007, help="certified drop of accuracy")
    parser.add_argument(
        "--smaller-shares",
        type=float,
        nargs="*",
        default=[0.5, 0.75],
        help="static networks to set beside it, of so much of the base's width; 1 is the base, "
        "trained on",
    )
    parser.add_argument(
        "--random-epochs", type=int, default=1, help="of random architectures; 0 leaves them out"
    )
    parser.add_argument("--random-images", type=int, default=15_000, help="to train those on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--result", type=Path, help="default: s2dnas_cifar10_BASE.json beside the others"
    )
    arguments = parser.parse_args()
    arguments.folder = arguments.folder or Path("runs/s2dnas_cifar10") / arguments.base

    began = time.monotonic()
    reporter = Reporter(
        progress=console.progress,
        say=lambda line: print(
            f"[{time.monotonic() - began:5.0f} s] {line}", file=sys.stderr, flush=True
        ),
    )
    settings = make_settings(arguments)
    cache = arguments.folder / "cache"
    searched = run_pipeline(settings, arguments.folder / "s2dnas", cache=cache, reporter=reporter)

    depth = depth_architecture(settings)
    canonical = make_space(settings).canonical
    if canonical(searched.architecture) == canonical(depth):
        reporter.say("the search ended with the depth exits, which are not trained once more")
        depth_folder, by_depth = arguments.folder / "s2dnas", searched
    else:
        depth_folder = arguments.folder / "depth_exits"
        depth_folder.mkdir(parents=True, exist_ok=True)
        shared = "shared.safetensors"
        shutil.copyfile(arguments.folder / "s2dnas" / shared, depth_folder / shared)
        by_depth = run_pipeline(
            replace(settings, architecture=depth, smaller_shares=()),
            depth_folder,
            cache=cache,
            reporter=reporter,
        )

    figures: dict[str, Any] = {"published_million_multiply_adds": PUBLISHED}
    splits = load_splits(settings, cache)
    trained = None
    if 1.0 in settings.smaller_shares:
        trained = Bundle.open(arguments.folder / "s2dnas" / "static-100-percent.bundle")
    equal: dict[str, dict[str, dict[str, float]]] = {}
    for name, outcome, place in (
        ("s2dnas", searched, arguments.folder / "s2dnas"),
        ("depth exits", by_depth, depth_folder),
    ):
        print(name)
        console.table(COLUMNS, table_rows(outcome))
        equal[name] = {
            row.program: at_equal_accuracy(
                outcome, row, splits, place, drop=DROP_GOAL, trained=trained
            )
            for row in outcome.rows
        }
        figures[name] = {**as_figures(outcome), "at_equal_accuracy": equal[name]}
    made = equal_claims(equal, MEAN_SPEEDUP_GOALS[arguments.base])
    if arguments.random_epochs:
        short = replace(
            settings,
            train_images=arguments.random_images,
            final_recipe=replace(settings.final_recipe, epochs=arguments.random_epochs),
        )
        rows = beside_random(short, searched, arguments.folder, cache)
        figures["beside_random"] = rows
        mean = float(np.mean([row["accuracy"] for name, row in rows.items() if name != "s2dnas"]))
        ahead = rows["s2dnas"]["accuracy"] - mean
        made.append(
            Claim(
                f"accuracy of what the search found less the mean of {RANDOM} random "
                f"architectures, within one budget, {arguments.random_epochs} epochs of "
                f"{arguments.random_images} images each",
                ahead,
                0.0,
                ahead > 0,
            )
        )
    write_result(
        arguments.result or RESULTS / f"s2dnas_cifar10_{arguments.base}.json",
        purpose=f"S2DNAS on a pretrained {arguments.base}, beside a depth-exit conversion of one "
        "recipe",
        # Where the data lie says nothing about the result.
        command=[
            *("s2dnas_cifar10.py", "--data", "CIFAR10_FOLDER", "--weights", arguments.weights.name),
            *("--base", arguments.base),
            *("--trials", str(arguments.trials), "--mean-share", str(arguments.mean_share)),
            *("--exit-head-channels", str(arguments.exit_head_channels)),
            *("--train-images", str(arguments.train_images)),
            *("--shared-epochs", str(arguments.shared_epochs)),
            *("--shared-learning-rate", str(arguments.shared_learning_rate)),
            *("--smaller-shares", *map(str, arguments.smaller_shares)),
            *("--epochs", str(arguments.epochs), "--learning-rate", str(arguments.learning_rate)),
            *("--random-epochs", str(arguments.random_epochs)),
            *("--random-images", str(arguments.random_images)),
            *("--limit", str(arguments.limit), "--seed", str(arguments.seed)),
        ],
        claims=[
            *claims("s2dnas", searched, MEAN_SPEEDUP_GOALS[arguments.base]),
            *claims("depth exits", by_depth, None),
            *made,
        ],
        figures=figures,
    )


if __name__ == "__main__":
    main()
