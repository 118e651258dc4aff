"""Search methods compared on published tables of trained networks.

Every evaluation is a look-up, so that each method is run with many seeds in seconds: REINFORCE on
a trade-off of accuracy and multiply-adds, PNAS against random search and REINFORCE with five times
its evaluations, DDPNAS against random search under noise as shared weights have it, selection
without labels against selection with them, and all baselines side by side. Architectures are
compared by what their trials were told; what is reported is their noise-free accuracy.

    .venv/bin/python benchmarks/tabular_methods.py --data FOLDER

FOLDER holds nas-bench-macro_cifar10.json (xiusu/NAS-Bench-Macro), nasbench201_cifar10.csv and the
TransNAS-Bench-101 extracts (Zhenhan-Huang/NASGraph-Public).
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
from offramp_search.report import Claim, write_result
from offramp_search.samplers import (
    DDPNASSampler,
    EvolutionSampler,
    PNASSampler,
    RandomSampler,
    ReinforceSampler,
    nsga2_sampler,
    tpe_sampler,
)
from offramp_search.tabular import (
    TabularSpace,
    best_of,
    load_nas_bench_201,
    load_nas_bench_macro,
    load_transnas_bench,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from optuna.samplers import BaseSampler

    from offramp_search.spaces import Architecture
    from offramp_search.tabular import TabularTrial

RESULT = Path(__file__).parent / "results" / "tabular_methods.json"

Compared = tuple[list[Claim], dict[str, Any]]
"""What was set out to show, and the raw figures."""


def main() -> None:
    """Run every comparison, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--seeds", type=int, default=20, help="of each method")
    parser.add_argument("--noisy-seeds", type=int, default=50, help="where evaluations are noisy")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument(
        "--folder", type=Path, default=Path(".cache/tabular_methods"), help="of what is done"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the surrogates are small
    macro = load_nas_bench_macro(arguments.data)
    cells = load_nas_bench_201(arguments.data)
    done = arguments.folder / f"{arguments.seeds}-{arguments.noisy_seeds}-seeds"
    done.mkdir(parents=True, exist_ok=True)
    seconds = 0.0
    claims: list[Claim] = []
    figures: dict[str, Any] = {}
    comparisons: dict[str, Callable[[], Compared]] = {
        "reinforce": lambda: reinforce(macro, arguments.seeds),
        "pnas_macro": lambda: pnas_macro(macro, arguments.seeds),
        "pnas_201": lambda: pnas_201(cells, arguments.seeds),
        "ddpnas_macro": lambda: ddpnas(macro, "accuracy", "accuracy", arguments.noisy_seeds),
        "ddpnas_201": lambda: ddpnas(cells, "validation", "test", arguments.noisy_seeds),
        "unnas_micro": lambda: unnas(load_transnas_bench(arguments.data, "micro"), 2000),
        "unnas_macro": lambda: unnas(load_transnas_bench(arguments.data, "macro"), 2000),
        "baselines": lambda: baselines(macro, arguments.seeds),
    }
    for name, compare in comparisons.items():
        found, raw, took = once(done / f"{name}.json", compare)
        claims += found
        figures[name] = raw
        seconds += took
        for claim in found:
            goal = "" if claim.goal is None else f"  goal {claim.goal:.5g}"
            met = "" if claim.goal is None else ("  met" if claim.met else "  NOT MET")
            print(f"{claim.value:9.4f}{goal}{met}  {claim.claim}", flush=True)
    claims.append(
        Claim.at_most("minutes of processor time that all comparisons took", seconds / 60, 10)
    )
    purpose = "search methods on tables of trained networks"
    write_result(arguments.result, claims=claims, figures=figures, purpose=purpose)


def once(path: Path, compare: Callable[[], Compared]) -> tuple[list[Claim], dict[str, Any], float]:
    """A comparison and its processor seconds, read where a run that was stopped has left it."""
    if not path.exists():
        began = time.process_time()
        found, raw = compare()
        write_atomically(path, msgspec.json.encode((found, raw, time.process_time() - began)))
    return msgspec.json.decode(path.read_bytes(), type=tuple[list[Claim], dict[str, Any], float])


def reinforce(space: TabularSpace, seeds: int) -> Compared:
    """Regret of 100 evaluations of accuracy less 0.1 times the share of multiply-adds."""
    reward = space.columns["accuracy"] - 0.1 * space.columns["flops"] / space.columns["flops"].max()
    traded = TabularSpace(space.name, space.choices, {"reward": reward})

    def regret(make: Callable[[int], BaseSampler]) -> NDArray[np.float64]:
        found = [
            best_of(run(traded, make(s), told(traded, "reward"), evaluations=100)).value
            for s in range(seeds)
        ]
        return 100 * (traded.best("reward") - np.array(found))

    table, lstm, random = (
        regret(make)
        for make in (ReinforceSampler, lambda s: ReinforceSampler(s, policy="lstm"), RandomSampler)
    )
    return [
        Claim.at_most(
            f"REINFORCE's mean regret over random search's, {space.name}, 100 evaluations",
            float(table.mean() / random.mean()),
            0.6,
        ),
        Claim("the same with the LSTM policy", float(lstm.mean() / random.mean()), None, met=True),
    ], {
        "regret_points": {"table": table.tolist(), "lstm": lstm.tolist(), "random": random.tolist()}
    }


def pnas_macro(space: TabularSpace, seeds: int) -> Compared:
    """57 evaluations of PNAS against 57 and 285 of the others."""

    def best(make: Callable[[int], BaseSampler], evaluations: int) -> NDArray[np.float64]:
        evaluate = told(space, "accuracy")
        return 100 * np.array(
            [
                best_of(run(space, make(seed), evaluate, evaluations=evaluations)).value
                for seed in range(seeds)
            ]
        )

    pnas = best(lambda s: progressive(space, s, "identity"), 57)
    random, policy = best(RandomSampler, 285), best(ReinforceSampler, 285)
    equal = {"random": best(RandomSampler, 57), "reinforce": best(ReinforceSampler, 57)}
    at = f"{space.name}, accuracy in %"
    return [
        Claim.at_least(f"PNAS after 57 evaluations, {at}", float(pnas.mean()), 93.0),
        Claim.at_least(
            f"PNAS after 57 less random search after 285, {at}",
            float(pnas.mean() - random.mean()),
            0.0,
        ),
        Claim.at_least(
            f"PNAS after 57 less REINFORCE after 285, {at}",
            float(pnas.mean() - policy.mean()),
            -0.02,
        ),
        Claim(f"random search after 57, {at}", float(equal["random"].mean()), None, met=True),
        Claim(f"REINFORCE after 57, {at}", float(equal["reinforce"].mean()), None, met=True),
    ], {
        "pnas_57": pnas.tolist(),
        "random_285": random.tolist(),
        "reinforce_285": policy.tolist(),
        **{f"{name}_57": values.tolist() for name, values in equal.items()},
    }


def pnas_201(space: TabularSpace, seeds: int) -> Compared:
    """57 evaluations each; selected by validation, reported on test."""

    def best(make: Callable[[int], BaseSampler]) -> NDArray[np.float64]:
        found = (
            best_of(run(space, make(seed), told(space, "validation"), evaluations=57))
            for seed in range(seeds)
        )
        return 100 * np.array([space.look_up("test", trial.architecture) for trial in found])

    pnas = best(lambda s: progressive(space, s, "skip_connect"))
    random, policy = best(RandomSampler), best(ReinforceSampler)
    at = f"{space.name}, 57 evaluations, test accuracy in %"
    return [
        Claim.at_least(f"PNAS, {at}", float(pnas.mean()), 90.9),
        Claim.at_least(f"PNAS less random search, {at}", float(pnas.mean() - random.mean()), 0.3),
        Claim(f"PNAS less REINFORCE, {at}", float(pnas.mean() - policy.mean()), None, met=True),
    ], {"pnas": pnas.tolist(), "random": random.tolist(), "reinforce": policy.tolist()}


def ddpnas(space: TabularSpace, column: str, reported: str, seeds: int) -> Compared:
    """The survivor of ten rounds a pruning, evaluations with 3 points of noise, against random."""
    trials = DDPNASSampler.length(space.decisions(), rounds=10)

    def noisy(seed: int) -> Callable[[Architecture], float]:
        rng = np.random.default_rng([seed, 3])
        return lambda architecture: space.look_up(column, architecture) + rng.normal(0, 0.03)

    def looked_up(found: Iterable[TabularTrial]) -> NDArray[np.float64]:
        return 100 * np.array([space.look_up(reported, trial.architecture) for trial in found])

    best_trials: dict[str, NDArray[np.float64]] = {}

    def survivor(name: str, make: Callable[[int], BaseSampler]) -> NDArray[np.float64]:
        runs = [
            run(space, make(seed), noisy(seed), evaluations=trials + 1) for seed in range(seeds)
        ]
        best_trials[name] = looked_up(best_of(trials) for trials in runs)
        return looked_up(trials[-1] for trials in runs)

    decay = survivor("decay", lambda s: DDPNASSampler(s, space.decisions(), rounds=10))
    momentum = survivor(
        "momentum", lambda s: DDPNASSampler(s, space.decisions(), rounds=10, update="momentum")
    )
    drawn = (
        best_of(run(space, RandomSampler(seed), noisy(seed), evaluations=trials))
        for seed in range(seeds)
    )
    random = looked_up(drawn)
    one = 100 * space.mean(reported)
    over_random, over_one = (0.2, 1.5) if space.name == "NAS-Bench-Macro" else (0.4, 4.0)
    at = f"{space.name}, {trials} evaluations with 3 points of noise, points"
    return [
        Claim.at_least(
            f"DDPNAS less the best of random search, {at}",
            float(decay.mean() - random.mean()),
            over_random,
        ),
        Claim.at_least(
            f"DDPNAS less one random architecture, {at}", float(decay.mean() - one), over_one
        ),
        Claim(
            f"DDPNAS with momentum less the best of random search, {at}",
            float(momentum.mean() - random.mean()),
            None,
            met=True,
        ),
        Claim(
            f"DDPNAS's survivor less the best trial of its own search, {at}",
            float(decay.mean() - best_trials["decay"].mean()),
            None,
            met=True,
        ),
    ], {
        "decay": decay.tolist(),
        "momentum": momentum.tolist(),
        "random": random.tolist(),
        "best_trial_decay": best_trials["decay"].tolist(),
        "best_trial_momentum": best_trials["momentum"].tolist(),
    }


def unnas(space: TabularSpace, draws: int) -> Compared:
    """The best of 30 networks by jigsaw, by labels, and any of them; object accuracy.

    Networks are selected on the validation split and reported on the test split. What the best of
    them on the test split itself has is among the figures; nobody can select it.
    """
    rng = np.random.default_rng(0)
    labels = 100 * space.columns["object"]
    drawn = np.array([rng.choice(len(labels), 30, replace=False) for _ in range(draws)])

    def selected(column: str) -> float:
        best = space.columns[column][drawn].argmax(1)
        return float(labels[drawn[np.arange(draws), best]].mean())

    random = float(labels[drawn].mean())
    found = {
        "by_jigsaw": selected("jigsaw_validation"),
        "by_labels": selected("object_validation"),
        "by_test_jigsaw": selected("jigsaw"),
        "by_test_labels": selected("object"),
    }
    share = (found["by_jigsaw"] - random) / (found["by_labels"] - random)
    oracle = (found["by_test_jigsaw"] - random) / (found["by_test_labels"] - random)
    what = "share of the supervised gain that selection by jigsaw recovers"
    return [
        Claim.at_least(f"{what}, {space.name}", share, 0.65),
        Claim(f"{what} if both select on the test split, {space.name}", oracle, None, met=True),
    ], {**found, "random": random}


def baselines(space: TabularSpace, seeds: int) -> Compared:
    """Every sampler with 100 evaluations."""
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "random": RandomSampler,
        "evolution": EvolutionSampler,
        "tpe": tpe_sampler,
        "nsga2": nsga2_sampler,
        "reinforce": ReinforceSampler,
        "pnas": lambda s: progressive(space, s, "identity"),
    }
    found = {
        name: [
            100 * best_of(run(space, make(s), told(space, "accuracy"), evaluations=100)).value
            for s in range(seeds)
        ]
        for name, make in makers.items()
    }
    at = f"after 100 evaluations, {space.name}, accuracy in %"
    return [
        Claim(f"{name} {at}", float(np.mean(f)), None, met=True) for name, f in found.items()
    ], {**found}


def told(space: TabularSpace, column: str) -> Callable[[Architecture], float]:
    """Evaluation that looks up a column."""
    return lambda architecture: space.look_up(column, architecture)


def progressive(space: TabularSpace, seed: int, neutral: str) -> PNASSampler:
    """PNAS with a beam of 8."""
    return PNASSampler(seed, space.decisions(), neutral=dict.fromkeys(space.choices, neutral))


if __name__ == "__main__":
    main()
