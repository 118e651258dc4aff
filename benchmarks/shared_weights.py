"""What shared weights say of an architecture, against what it reaches once it is trained.

The base and the network of shared weights of `make demo` are taken as they are. Random
architectures are evaluated with the shared weights twice: with the exits as they were trained
along, and with every exit fitted to its features. Then each is trained on its own by the recipe of
the demonstration, from the shared weights and fitted exits, and the rankings are compared:
Spearman's correlation of the accuracy at the first exit, on the search-validation split.

    make demo
    .venv/bin/python benchmarks/shared_weights.py

What is done already is read from `--folder`, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from offramp._files import write_atomically
from offramp_search.bases import load_base
from offramp_search.data import take_stratified
from offramp_search.demo import demo_settings
from offramp_search.evaluators import FineTune, SharedWeights, fit_all_exits, recalibrate
from offramp_search.pipeline import load_splits, random_architecture, static_network
from offramp_search.report import Claim, write_result
from offramp_search.spaces import StaticTransform
from offramp_search.training import accuracies
from offramp_search.weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from offramp_export.network import MultiStageNetwork
    from offramp_search.evaluators import Outputs
    from offramp_search.spaces import Architecture

RESULT = Path(__file__).parent / "results" / "shared_weights.json"

FITTING_IMAGES = 2_000


def main() -> None:
    """Evaluate, train, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="what make demo left")
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--folder", type=Path, default=Path("runs/shared_weights"))
    parser.add_argument("--architectures", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2, help="of training alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()

    settings = demo_settings(arguments.data)
    splits = load_splits(settings, arguments.cache)
    base = load_base(
        settings.base, num_classes=len(splits.labels), image_shape=splits.train.image_shape
    )
    static = static_network(base)
    load_weights(static, arguments.demo / "base.safetensors")
    static.eval()
    space = StaticTransform(
        base.module,
        image_shape=splits.train.image_shape,
        preprocess=base.preprocess,
        num_stages=settings.num_stages,
        groups=settings.groups,
    )
    masked = space.masked()
    load_weights(masked, arguments.demo / "shared.safetensors")
    masked.eval()

    def teacher(images: Tensor) -> Tensor:
        logits: tuple[Tensor, ...] = static(images)
        return logits[-1]

    def build(architecture: Architecture) -> MultiStageNetwork:
        load_weights(masked, arguments.demo / "shared.safetensors")
        masked.select(architecture)
        images = take_stratified(splits.train, FITTING_IMAGES, seed=arguments.seed)
        recalibrate(masked, images.images)
        generator = np.random.default_rng(arguments.seed)
        fit_all_exits(masked, images, generator=generator).give_to(masked)
        network = space.build(architecture, weights=masked)
        load_weights(masked, arguments.demo / "shared.safetensors")
        return network

    evaluators = {
        "as trained": SharedWeights(
            masked, train=splits.train, search=splits.search, fitting_images=0
        ),
        "fitted": SharedWeights(masked, train=splits.train, search=splits.search),
        "trained alone": FineTune(
            build,
            train=splits.train,
            search=splits.search,
            recipe=replace(settings.final_recipe, epochs=arguments.epochs),
            teacher=teacher,
        ),
    }
    generator = np.random.default_rng(arguments.seed)
    rows: list[dict[str, Any]] = []
    for index in range(arguments.architectures):
        architecture = random_architecture(space, generator)
        path = arguments.folder / f"{arguments.seed}-{index}.json"
        if not path.exists():
            row: dict[str, Any] = {
                "architecture": dict(architecture),
                "multiply_adds": space.cost(architecture),
                "accuracies": {},
                "seconds": {},
            }
            for name, evaluator in evaluators.items():
                began = time.perf_counter()
                outputs: Outputs = evaluator.evaluate(architecture, seed=arguments.seed)
                row["seconds"][name] = time.perf_counter() - began
                row["accuracies"][name] = accuracies(outputs.logits, outputs.labels)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, msgspec.json.encode(row))
        rows.append(msgspec.json.decode(path.read_bytes()))
        shown = "  ".join(
            f"{name} {' '.join(f'{share:.1%}' for share in shares)}"
            for name, shares in rows[-1]["accuracies"].items()
        )
        print(f"{[f'{cost / 1e6:.1f}' for cost in rows[-1]['multiply_adds']]}: {shown}", flush=True)

    def of(name: str, exit: int) -> list[float]:
        return [row["accuracies"][name][exit] for row in rows]

    ranks = {name: rank_correlation(of(name, 0), of("trained alone", 0)) for name in evaluators}
    medians = {name: float(np.median(of(name, 0))) for name in evaluators}
    last = {name: float(np.median(of(name, -1))) for name in evaluators}
    for name in evaluators:
        print(
            f"{name}: first exit {medians[name]:.1%}, last exit {last[name]:.1%} (medians); rank "
            f"correlation of the first exit with training alone {ranks[name]:.3f}"
        )
    write_result(
        arguments.result,
        purpose="Accuracy of shared weights at the first exit against that after training alone",
        command=[
            *("shared_weights.py", "--architectures", str(arguments.architectures)),
            *("--epochs", str(arguments.epochs), "--seed", str(arguments.seed)),
        ],
        claims=[
            Claim.at_least(
                "rank correlation of the first exit's accuracy with fitted exits and after "
                "training alone",
                ranks["fitted"],
                0.7,
            ),
            Claim(
                "the same with the exits as they were trained along",
                ranks["as trained"],
                None,
                True,
            ),
            Claim(
                "median accuracy of the first exit, fitted, minus as trained",
                medians["fitted"] - medians["as trained"],
                None,
                True,
            ),
        ],
        figures={
            "median_first_exit": medians,
            "median_last_exit": last,
            "architectures": rows,
        },
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's; equal values share their mean rank."""
    ranks = [_ranks(np.asarray(values)) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    ranks: np.ndarray[Any, Any] = below + equal / 2
    return ranks


if __name__ == "__main__":
    main()
