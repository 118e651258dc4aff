"""S2DNAS on a pretrained ResNet-20, CIFAR-10, beside a depth-exit conversion of the same recipe.

Two runs of the pipeline start from the same pretrained static network and from the same shared
weights. One searches the static transform under a latency budget; the other builds exits at
different depths, every unit of the network whole in one stage. Both are trained by one recipe,
exported, calibrated and measured against the static network, image by image, in LiteRT on one
thread. Narrower static networks, trained by the recipe of the searched one, stand beside it.

The pretrained network has seen all training images, so thresholds are certified on one half of the
test images and everything is reported on the other half.

    .venv/bin/python benchmarks/s2dnas_cifar10.py --data CIFAR10_FOLDER --weights FILE

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

RESULT = Path(__file__).parent / "results" / "s2dnas_cifar10.json"
MEAN_SPEEDUP_GOAL = 1.5
DROP_GOAL = 0.005


def make_settings(arguments: argparse.Namespace) -> Settings:
    """What both runs share."""
    return Settings(
        source=str(arguments.data),
        base="resnet20",
        base_weights=str(arguments.weights),
        num_stages=2,
        groups=4,
        trials=arguments.trials,
        mean_share=arguments.mean_share,
        search_images=3_000,
        train_images=arguments.train_images,
        shared_recipe=Recipe(
            epochs=arguments.shared_epochs, learning_rate=0.02, horizontal_flip=True, pad_crop=4
        ),
        final_recipe=Recipe(
            epochs=arguments.epochs,
            learning_rate=0.05,
            horizontal_flip=True,
            pad_crop=4,
            distill_alpha=0.7,
        ),
        smaller_shares=(0.5, 0.75),
        programs=("litert/float32", "litert/int8"),
        seed=arguments.seed,
    )


def depth_architecture(settings: Settings) -> dict[str, str | int]:
    """The first exit where half of the multiply-adds are spent."""
    base = load_base("resnet20", num_classes=10, image_shape=(32, 32))
    space = StaticTransform(
        base.module,
        image_shape=(32, 32),
        preprocess=base.preprocess,
        num_stages=settings.num_stages,
        groups=settings.groups,
    )
    shares = [(stage + 1) / settings.num_stages for stage in range(settings.num_stages - 1)]
    return dict(space.depth_architecture(shares))


def claims(name: str, outcome: Outcome, *, goals: bool) -> list[Claim]:
    """Speed and accuracy of one run against its static network."""
    made = []
    for row in outcome.rows:
        made += [
            Claim(
                f"{name}: static {row.program} mean latency over dynamic mean latency",
                row.mean_speedup,
                MEAN_SPEEDUP_GOAL if goals else None,
                not goals or row.mean_speedup >= MEAN_SPEEDUP_GOAL,
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
    parser.add_argument("--folder", type=Path, default=Path("runs/s2dnas_cifar10"))
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--mean-share", type=float, default=0.6, help="budget, of the static mean")
    parser.add_argument("--train-images", type=int, default=40_000)
    parser.add_argument("--shared-epochs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()

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
        arguments.result,
        purpose="S2DNAS on a pretrained ResNet-20, beside a depth-exit conversion of one recipe",
        # Where the data lie says nothing about the result.
        command=[
            *("s2dnas_cifar10.py", "--data", "CIFAR10_FOLDER", "--weights", arguments.weights.name),
            *("--trials", str(arguments.trials), "--mean-share", str(arguments.mean_share)),
            *("--train-images", str(arguments.train_images)),
            *("--shared-epochs", str(arguments.shared_epochs)),
            *("--epochs", str(arguments.epochs), "--seed", str(arguments.seed)),
        ],
        claims=[
            *claims("s2dnas", searched, goals=True),
            *claims("depth exits", by_depth, goals=False),
        ],
        figures=figures,
    )


if __name__ == "__main__":
    main()
