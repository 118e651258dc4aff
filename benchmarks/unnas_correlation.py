"""Whether objectives without labels rank our networks as labels do.

Networks are drawn at random from the static transform of ResNet-20. Each is trained from random
weights, very briefly, once with labels and once for each objective, all exits together, and scored
on training images that it was not trained on. Every training is shown as many images; rotation,
which shows each one four times, has half of the images and half of the epochs. The
rank correlation (Spearman's) of each objective's score with the accuracy on labels says how well
one could search without labels; intervals come from resampling the networks. The test split is not
read.

    .venv/bin/python benchmarks/unnas_correlation.py --data DATA_FOLDER

What is done already is read from `--folder`, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from offramp._files import write_atomically
from offramp_search.bases import load_base
from offramp_search.data import Parquet, take_stratified
from offramp_search.evaluators import FineTune, ObjectiveFineTune
from offramp_search.objectives import OBJECTIVES, make_objective
from offramp_search.pipeline import random_architecture
from offramp_search.report import Claim, write_result
from offramp_search.spaces import StaticTransform
from offramp_search.training import Recipe, accuracies
from shared_weights import rank_correlation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from offramp_search.data import ImageSet
    from offramp_search.evaluators import Evaluator

RESULT = Path(__file__).parent / "results" / "unnas_correlation.json"

LABELS = "labels"
GOAL = 0.4
RESAMPLES = 2_000
# As released, rotation has a batch of a quarter; all have batches small enough for many steps.
BATCH = {LABELS: 32, "colorization": 32, "rotation": 8, "jigsaw": 32}
RATE = 0.05


def main() -> None:
    """Train, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="holds cifar10/train.parquet")
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--folder", type=Path, default=Path("runs/unnas_correlation"))
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--train-images", type=int, default=800)
    parser.add_argument("--held-out-images", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=2, help="an even number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.epochs % 2:
        parser.error("--epochs must be even: rotation takes half of them")

    began = time.perf_counter()
    train, held_out = _images(arguments)
    torch.manual_seed(arguments.seed)
    base = load_base("resnet20", num_classes=10, image_shape=train.image_shape)
    space = StaticTransform(
        base.module,
        image_shape=train.image_shape,
        preprocess=base.preprocess,
        num_stages=2,
        groups=8,
    )
    evaluators = _evaluators(arguments, space, train, held_out)
    generator = np.random.default_rng(arguments.seed)
    rows: list[dict[str, Any]] = []
    for index in range(arguments.networks):
        architecture = random_architecture(space, generator)
        path = arguments.folder / f"{_run(arguments)}-{index}.json"
        if path.exists():
            row = msgspec.json.decode(path.read_bytes())
        else:
            row = {
                "architecture": dict(architecture),
                "multiply_adds": space.cost(architecture),
                "scores": {},
                "seconds": {},
            }
            for name, evaluator in evaluators.items():
                started = time.perf_counter()
                outputs = evaluator.evaluate(architecture, seed=arguments.seed)
                row["seconds"][name] = time.perf_counter() - started
                row["scores"][name] = accuracies(outputs.logits, outputs.labels)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, msgspec.json.encode(row))
        rows.append(row)
        shown = "  ".join(
            f"{name} {' '.join(f'{share:.1%}' for share in shares)}"
            for name, shares in row["scores"].items()
        )
        print(f"{index:2}: {shown}  ({time.perf_counter() - began:.0f} s)", flush=True)
    _write(arguments, rows)


def _run(arguments: argparse.Namespace) -> str:
    sizes = (arguments.train_images, arguments.held_out_images, arguments.epochs, arguments.seed)
    return "-".join(map(str, sizes))


def _images(arguments: argparse.Namespace) -> tuple[ImageSet, ImageSet]:
    """Disjoint parts of the training images."""
    read = Parquet(arguments.data / "cifar10", arguments.cache).read(None)
    wanted = arguments.train_images + arguments.held_out_images
    some = take_stratified(read.train, wanted, seed=arguments.seed)
    positions = np.arange(wanted)
    return some.take(positions[: arguments.train_images]), some.take(
        positions[arguments.train_images :]
    )


def _evaluators(
    arguments: argparse.Namespace, space: StaticTransform, train: ImageSet, held_out: ImageSet
) -> Mapping[str, Evaluator]:
    def recipe(name: str) -> Recipe:
        return Recipe(
            epochs=arguments.epochs // 2 if name == "rotation" else arguments.epochs,
            batch_size=BATCH[name],
            learning_rate=RATE,
            horizontal_flip=True,
        )

    # Every space.build starts from the same random weights of the base, as every masked() does.
    evaluators: dict[str, Evaluator] = {
        LABELS: FineTune(space.build, train=train, search=held_out, recipe=recipe(LABELS))
    }
    half = train.take(np.arange(len(train) // 2))
    for name in OBJECTIVES:
        evaluators[name] = ObjectiveFineTune(
            space.masked,
            make_objective(name, train.image_shape),
            train=half if name == "rotation" else train,
            search=held_out,
            recipe=recipe(name),
            answers=64 * len(held_out),
        )
    return evaluators


def _write(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    scores = {
        name: np.array([row["scores"][name] for row in rows]) for name in (LABELS, *OBJECTIVES)
    }
    columns = {"first exit": 0, "last exit": 1, "mean of exits": None}
    correlations: dict[str, dict[str, dict[str, float]]] = {}
    for name in OBJECTIVES:
        correlations[name] = {}
        for column, exit_ in columns.items():
            first, second = (
                scores[key].mean(1) if exit_ is None else scores[key][:, exit_]
                for key in (name, LABELS)
            )
            correlations[name][column] = _spearman(first, second, arguments.seed)
            found = correlations[name][column]
            print(
                f"{name:12} {column:13} {found['rho']:6.3f}  95 % interval "
                f"{found['low']:.3f} to {found['high']:.3f}"
            )
    claims = [
        Claim.at_least(
            f"rank correlation of {name}'s score with accuracy on labels, mean of both exits",
            correlations[name]["mean of exits"]["rho"],
            GOAL,
        )
        for name in ("jigsaw", "rotation", "colorization")
    ]
    write_result(
        arguments.result,
        purpose="Rank correlation of objectives without labels with labels, on our own networks",
        command=[
            *("unnas_correlation.py", "--networks", str(arguments.networks)),
            *("--train-images", str(arguments.train_images)),
            *("--held-out-images", str(arguments.held_out_images)),
            *("--epochs", str(arguments.epochs), "--seed", str(arguments.seed)),
        ],
        claims=claims,
        figures={
            "correlations": correlations,
            "median_scores": {
                name: np.median(part, axis=0).tolist() for name, part in scores.items()
            },
            "spread_of_scores": {
                name: np.std(part, axis=0).tolist() for name, part in scores.items()
            },
            "minutes": sum(sum(row["seconds"].values()) for row in rows) / 60,
            "networks": rows,
        },
    )


def _spearman(first: NDArray[Any], second: NDArray[Any], seed: int) -> dict[str, float]:
    """Spearman's rank correlation, and where 95 % of it lie when the networks are resampled."""
    generator = np.random.default_rng(seed)
    resampled = []
    for _ in range(RESAMPLES):
        rows = generator.integers(len(first), size=len(first))
        resampled.append(rank_correlation(first[rows].tolist(), second[rows].tolist()))
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    rho = rank_correlation(first.tolist(), second.tolist())
    return {"rho": rho, "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
