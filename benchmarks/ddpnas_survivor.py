"""DDPNAS's survivor against five random architectures of the same training, on CIFAR-10.

The survivor is what distribution pruning itself ends with, taken from the search that
`search_cifar10.py` has left. It and five other random networks that can keep the same budget start
from the same shared weights, and are trained for as many epochs by the same recipe. Thresholds are
solved for the budget on one half of the test images, at the latency of the table, and accuracy is
reported on the other half. The survivor passes if it is above the mean of the five.

    .venv/bin/python benchmarks/search_cifar10.py --data CIFAR10_FOLDER --weights FILE
    .venv/bin/python benchmarks/ddpnas_survivor.py --data CIFAR10_FOLDER --weights FILE

Give both the same options. What is in `--folder` already is not done again. Meant to take 10
minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from comparing import draw_within, judge, make_trainer
from offramp._files import write_atomically
from offramp.cli import console
from offramp_search.budget import Budget
from offramp_search.devices import HostDevice, LatencyTable
from offramp_search.pipeline import load_splits
from offramp_search.report import Claim, write_result
from offramp_search.samplers import DDPNASSampler
from s2dnas_cifar10 import make_space
from search_cifar10 import COMMON, make_settings

if TYPE_CHECKING:
    from offramp_search.spaces import Architecture, StaticTransform

RESULT = Path(__file__).parent / "results" / "ddpnas_survivor.json"
RANDOM = 5


def read_survivor(folder: Path, space: StaticTransform) -> Architecture:
    """What the pruning of a search ended with."""
    study = optuna.load_study(
        study_name="search",
        storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
    )
    survivor = DDPNASSampler(0, space.decisions()).answer(study)
    if survivor is None:
        raise SystemExit(
            f"the search in {folder} ended before one architecture was left; give "
            "search_cifar10.py more --minutes"
        )
    return survivor


def main() -> None:
    """Train all, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/search_cifar10"))
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--mean-share", type=float, default=0.6)
    parser.add_argument("--train-images", type=int, default=20_000)
    parser.add_argument("--search-images", type=int, default=1_500, help="to compare with, at most")
    parser.add_argument("--calibration-images", type=int, default=5_000, help="at most")
    parser.add_argument("--test-images", type=int, default=5_000, help="to report on, at most")
    parser.add_argument("--groups", type=int, default=4, help="parts a layer is cut into, at most")
    parser.add_argument(
        "--exit-head-channels", type=int, default=64, help="of the convolution of early exits"
    )
    parser.add_argument("--shared-epochs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2, help="of every architecture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()

    settings = make_settings(arguments)
    splits = load_splits(settings, arguments.folder / "cache")
    space = make_space(settings)
    search = arguments.folder / "ddpnas" / "search"
    survivor = read_survivor(search, space)
    mean_ms = float(msgspec.json.decode((search / "search.json").read_bytes())["budget"]["mean_ms"])
    budget = Budget(mean_ms=mean_ms)
    table = LatencyTable(
        arguments.folder / "ddpnas" / "latency",
        HostDevice(),
        precision="float32",
        threads=1,
        runs=settings.latency_runs,
    )
    trainer = make_trainer(
        settings, space, splits, arguments.folder / COMMON / "shared.safetensors"
    )
    kept = arguments.folder / "survivor" / f"{settings.final_recipe.epochs}-epochs"
    kept.mkdir(parents=True, exist_ok=True)

    others = draw_within(budget, RANDOM, space, table, seed=arguments.seed, besides=[survivor])
    chosen = {
        "survivor": survivor,
        **{f"random {place}": other for place, other in enumerate(others, start=1)},
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, architecture in chosen.items():
        path = kept / f"{name.replace(' ', '-')}.json"
        if not path.exists():
            row = judge(architecture, trainer, table, space, splits, mean_ms, arguments.seed)
            write_atomically(path, msgspec.json.encode(row))
        rows[name] = msgspec.json.decode(path.read_bytes())
    console.table(
        ("architecture", "accuracy", "predicted mean ms", "each exit"),
        [
            (
                name,
                f"{row['accuracy']:.2%}",
                f"{row['mean_ms']:.3f}",
                " ".join(f"{share:.2%}" for share in row["exit_accuracies"]),
            )
            for name, row in rows.items()
        ],
    )
    beside = [row["accuracy"] for name, row in rows.items() if name != "survivor"]
    ahead = rows["survivor"]["accuracy"] - float(np.mean(beside))
    write_result(
        arguments.result,
        purpose="DDPNAS's survivor against random architectures of the same training, CIFAR-10",
        # Where the data lie says nothing about the result.
        command=[
            *("ddpnas_survivor.py", "--data", "CIFAR10_FOLDER"),
            *("--weights", arguments.weights.name, "--minutes", str(arguments.minutes)),
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
        claims=[
            Claim(
                f"accuracy of the survivor less the mean of {RANDOM} random architectures, within "
                "one budget, on the reported half",
                ahead,
                0.0,
                ahead > 0,
            ),
            Claim(
                "random architectures that the survivor is better than",
                float(sum(rows["survivor"]["accuracy"] > other for other in beside)),
                None,
                True,
            ),
        ],
        figures={"budget_mean_ms": mean_ms, "architectures": rows},
    )


if __name__ == "__main__":
    main()
