"""S2DNAS on a pretrained network, CIFAR-10, beside a depth-exit conversion of the same recipe.

Two runs of the pipeline start from the same pretrained static network and from the same shared
weights. One searches the static transform under a latency budget; the other builds exits at
different depths, every unit of the network whole in one stage. Both are trained by one recipe,
exported, calibrated and measured against the static network, image by image, in LiteRT on one
thread. Narrower static networks, trained by the recipe of the searched one, stand beside it.

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

from offramp.cli import console
from offramp_search.bases import load_base
from offramp_search.pipeline import (
    COLUMNS,
    Reporter,
    Settings,
    as_figures,
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


def depth_architecture(settings: Settings) -> dict[str, str | int]:
    """Exits where a third and two thirds of the multiply-adds are spent."""
    base = load_base(settings.base, num_classes=10, image_shape=(32, 32))
    space = StaticTransform(
        base.module,
        image_shape=(32, 32),
        preprocess=base.preprocess,
        num_stages=settings.num_stages,
        groups=settings.groups,
        tie=settings.tie,
        exit_grid=settings.exit_grid,
        exit_places=settings.exit_places,
    )
    shares = [(stage + 1) / settings.num_stages for stage in range(settings.num_stages - 1)]
    return dict(space.depth_architecture(shares))


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
        help="static networks to set beside it, of so much of the base's width",
    )
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

    depth_folder = arguments.folder / "depth_exits"
    depth_folder.mkdir(parents=True, exist_ok=True)
    shared = "shared.safetensors"
    shutil.copyfile(arguments.folder / "s2dnas" / shared, depth_folder / shared)
    by_depth = run_pipeline(
        replace(settings, architecture=depth_architecture(settings), smaller_shares=()),
        depth_folder,
        cache=cache,
        reporter=reporter,
    )

    figures: dict[str, Any] = {}
    for name, outcome in (("s2dnas", searched), ("depth exits", by_depth)):
        print(name)
        console.table(COLUMNS, table_rows(outcome))
        figures[name] = as_figures(outcome)
    write_result(
        arguments.result or RESULTS / f"s2dnas_cifar10_{arguments.base}.json",
        purpose=f"S2DNAS on a pretrained {arguments.base}, beside a depth-exit conversion of one "
        "recipe",
        # Where the data lie says nothing about the result.
        command=[
            *("s2dnas_cifar10.py", "--data", "CIFAR10_FOLDER", "--weights", arguments.weights.name),
            *("--base", arguments.base),
            *("--trials", str(arguments.trials), "--mean-share", str(arguments.mean_share)),
            *("--train-images", str(arguments.train_images)),
            *("--shared-epochs", str(arguments.shared_epochs)),
            *("--shared-learning-rate", str(arguments.shared_learning_rate)),
            *("--smaller-shares", *map(str, arguments.smaller_shares)),
            *("--epochs", str(arguments.epochs), "--learning-rate", str(arguments.learning_rate)),
            *("--limit", str(arguments.limit), "--seed", str(arguments.seed)),
        ],
        claims=[
            *claims("s2dnas", searched, MEAN_SPEEDUP_GOALS[arguments.base]),
            *claims("depth exits", by_depth, None),
        ],
        figures=figures,
    )


if __name__ == "__main__":
    main()
