"""How often a certified promise is broken, and what the certainty costs.

The logits are those of the LiteRT programs of a four-exit ResNet-20 (see cifar10.py) on the 10,000
test images of CIFAR-10. These 10,000 images are taken as the whole population, and calibration sets
are drawn from them with replacement: draws are then independent, as the certificates ask for, and
what is true of a policy can be counted instead of estimated. (Held-out halves would leave the truth
uncertain by about as much as the promises are wide.) Latencies are drawn in the same way from
2,000 passes measured on this machine.

For each kind of promise three choices are compared: the certified one; the plug-in one, which takes
the best candidate that keeps the limits on the calibration set itself, without a bound, as a
validation set is commonly used; and the oracle, which knows the population.

    .venv/bin/python benchmarks/certificates.py --data DATA_FOLDER [--only PART]

`--only timing` measures latencies and the time of a calibration, and should run on a quiet machine;
the rest does not depend on speed, and `--only litert/int8` does that of one program. What was done
already is kept in `--cache`.
"""

from __future__ import annotations

import argparse
import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import msgspec
import numpy as np

from cifar10 import CACHE, PROGRAMS, Cifar10Network, cifar10_network
from offramp._files import write_atomically
from offramp.calibration import (
    Promises,
    binomial_cdf,
    calibrate,
    candidate_path,
    fit_temperature,
)
from offramp.policy import choose_exits, probabilities, signal_values
from offramp.profiling import measure_stages
from offramp.runtimes import open_runtime
from offramp_search.report import Claim, write_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from offramp.bundle import Policy

RESULT = Path(__file__).parent / "results" / "certificates.json"
TRIALS = 500
IMAGES = 1_500
LATENCY_RUNS = 1_500
POPULATION_RUNS = 2_000
TIME_GOAL_S = 1.0
# A rate of exactly delta passes the goal with this probability.
SURE = 0.99


@final
@dataclass(frozen=True, eq=False)
class Population:
    """Images, or a sample of them, and passes through the stages.

    Attributes:
        logits: ``(exits, images, classes)``.
        labels: ``(images,)``.
        reference: ``(images,)``, the answers drops are counted from.
        whole_ms: ``(exits, runs)``, sorted times until each exit answers.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    reference: NDArray[np.int64]
    whole_ms: NDArray[np.float64]

    @functools.cached_property
    def classes(self) -> NDArray[np.int64]:
        """``(exits, images)``, what each exit answers."""
        answers: NDArray[np.int64] = self.logits.argmax(axis=-1)
        return answers

    def signals(self, policy: Policy, exits: NDArray[np.int64]) -> NDArray[np.float64]:
        """``(images,)``, at the exit each image leaves at."""
        temperatures = np.array(policy.temperatures)[exits]
        logits = self.logits[exits, np.arange(len(exits))] / temperatures[:, np.newaxis]
        return signal_values(probabilities(logits), policy.signal)

    def values(self, promises: Promises, exits: NDArray[np.int64]) -> dict[str, float]:
        """What is promised, as it is on these images; 0 where no image is concerned."""
        images = np.arange(len(exits))
        answers = self.classes[exits, images]
        drops = (self.reference == self.labels).astype(float) - (answers == self.labels)
        early = exits < len(self.logits) - 1
        of: dict[str, Callable[[], Any]] = {
            "accuracy_drop": lambda: drops.mean(),
            "early_exit_drop": lambda: drops[early].mean() if early.any() else 0.0,
            "class_drop": lambda: max(
                drops[self.labels == k].mean() for k in range(self.logits.shape[2])
            ),
            "disagreement": lambda: (answers != self.reference).mean(),
            "mean_ms": lambda: self.whole_ms.mean(axis=1)[exits].mean(),
            "tail_ms": lambda: self._late(promises.tail_ms)[exits].mean(),
        }
        return {name: float(of[name]()) for name in promises.limited if name in of}

    def _late(self, limit_ms: float | None) -> NDArray[np.float64]:
        """``(exits,)``: share of passes in which each exit answers too late."""
        return np.array(
            [
                1.0 - np.searchsorted(times, limit_ms or np.inf, side="right") / times.size
                for times in self.whole_ms
            ]
        )

    def error_given(self, policy: Policy, exits: NDArray[np.int64]) -> tuple[float, float]:
        """The share of wrong answers among those given, and the share given."""
        given = self.signals(policy, exits) >= (policy.abstain_below or 0.0)
        answers = self.classes[exits, np.arange(len(exits))]
        wrong = answers[given] != self.labels[given]
        return float(wrong.mean()) if given.any() else 0.0, float(given.mean())

    def mean_ms(self, exits: NDArray[np.int64]) -> float:
        """Mean latency."""
        return float(self.whole_ms.mean(axis=1)[exits].mean())


def limits_of(promises: Promises) -> dict[str, float]:
    """The limits of ``Population.values``."""
    limits = {name: float(getattr(promises, name)) for name in promises.limited}
    if promises.tail_ms is not None:
        limits["tail_ms"] = 1.0 - promises.quantile
    return limits


def kept(values: dict[str, float], limits: dict[str, float]) -> bool:
    """Whether no value is above its limit, to the precision of a sum."""
    return all(value <= limits[name] + 1e-12 for name, value in values.items())


def best_candidate(
    known: Population, promises: Promises, temperatures: tuple[float, ...] | None = None
) -> Policy | None:
    """The fastest candidate that keeps the limits on these images.

    The most accurate one if all limits are about time. Temperatures that are not given are fitted.
    """
    exits = len(known.logits)
    if temperatures is None:
        temperatures = tuple(fit_temperature(known.logits[s], known.labels) for s in range(exits))
    signals = np.stack(
        [
            signal_values(probabilities(known.logits[s], temperatures[s]), "max_probability")
            for s in range(exits - 1)
        ]
    )
    last = exits - 1
    if promises.tail_ms is not None and promises.cap == "hard":
        places = int(np.ceil(promises.quantile * known.whole_ms.shape[1])) - 1
        last = max(0, int((known.whole_ms[:, places] <= promises.tail_ms).sum()) - 1)
    path = candidate_path(signals[:last])
    only_time = set(promises.limited) <= {"mean_ms", "tail_ms"}
    limits = limits_of(promises)
    order = range(len(path)) if only_time else reversed(range(len(path)))
    for candidate in order:
        left = path.exits(candidate, signals[:last])
        if kept(known.values(promises, left), limits):
            return _as_policy(
                temperatures, path.thresholds[candidate], path.enabled[candidate], exits
            )
    return None


def _as_policy(
    temperatures: tuple[float, ...],
    thresholds: NDArray[np.float64],
    enabled: NDArray[np.bool_],
    exits: int,
) -> Policy:
    from offramp.bundle import Policy

    last = len(thresholds)
    capped = last < exits - 1
    on = [*enabled.tolist(), *([True] * capped), *([False] * (exits - 2 - last)), True]
    levels = [*thresholds.tolist(), *([0.0] * capped), *([1.0] * (exits - 2 - last)), 0.0]
    return Policy(
        name="plain",
        program="litert/float32",
        signal="max_probability",
        temperatures=temperatures,
        thresholds=tuple(levels),
        enabled=tuple(on[:exits]),
    )


def plain_abstention(known: Population, policy: Policy, limit: float) -> Policy:
    """Withhold as few answers as the error among those given on these images allows."""
    left = choose_exits(policy, known.logits)
    signals = known.signals(policy, left)
    order = np.argsort(-signals, kind="stable")
    answers = known.classes[left, np.arange(len(left))]
    wrong = np.cumsum((answers != known.labels)[order])
    possible = np.flatnonzero(wrong <= limit * np.arange(1, len(order) + 1))
    below = 1.0 if not possible.size else float(signals[order[possible[-1]]])
    if possible.size and possible[-1] == len(order) - 1:
        below = 0.0
    return msgspec.structs.replace(policy, abstain_below=below)


def judge(truth: Population, promises: Promises, policy: Policy | None) -> dict[str, Any]:
    """What a choice is worth on the population."""
    if policy is None:
        return {"feasible": False}
    exits = choose_exits(policy, truth.logits)
    values = truth.values(promises, exits)
    limits = limits_of(promises)
    judged: dict[str, Any] = {"feasible": True, "mean_ms": truth.mean_ms(exits)}
    if promises.selective_error is not None:
        values["selective_error"], judged["answered"] = truth.error_given(policy, exits)
    drops = Promises(accuracy_drop=0.5)
    judged["accuracy_drop"] = truth.values(drops, exits)["accuracy_drop"]
    return judged | {"values": values, "broken": not kept(values, limits)}


def make_kinds(truth: Population, program: str) -> dict[str, Promises]:
    """One promise of each kind, with limits that this network can keep and that bite.

    All kinds for int8, which is what ships; for float32 those that most people ask for.

    The limit on the tail lies just below the true quantile of an exit, where only the bound on the
    latency decides whether its stage may run.
    """
    chain = float(truth.whole_ms.mean(axis=1)[-1])
    runs = truth.whole_ms.shape[1]

    def quantile(exit: int, share: float) -> float:
        return float(truth.whole_ms[exit, int(np.ceil(share * runs)) - 1])

    kinds = {
        "accuracy_drop": Promises(accuracy_drop=0.01),
        "accuracy_drop and mean_ms": Promises(accuracy_drop=0.02, mean_ms=0.93 * chain),
        "selective_error": Promises(accuracy_drop=0.02, selective_error=0.05),
    }
    if program == PROGRAMS[0]:
        return kinds
    return kinds | {
        "mean_ms": Promises(mean_ms=0.8 * chain),
        "disagreement": Promises(disagreement=0.03),
        "early_exit_drop": Promises(early_exit_drop=0.02),
        "class_drop": Promises(class_drop=0.06),
        "tail_ms, hard": Promises(
            accuracy_drop=0.25, tail_ms=float(np.nextafter(quantile(2, 0.99), 0.0))
        ),
        "tail_ms, soft": Promises(tail_ms=1.02 * quantile(2, 0.97), quantile=0.9, cap="soft"),
        "accuracy_drop, float": Promises(accuracy_drop=0.015, reference="float"),
    }


def run_kind(
    truth: Population, stage_ms: NDArray[np.float64], promises: Promises, trials: int
) -> dict[str, Any]:
    """All trials of one kind."""
    rows: dict[str, list[dict[str, Any]]] = {"certified": [], "plug-in": []}
    for trial in range(trials):
        rng = np.random.default_rng([trial, 7])
        drawn = rng.integers(0, truth.labels.size, IMAGES)
        passes = stage_ms[:, rng.integers(0, stage_ms.shape[1], LATENCY_RUNS)]
        sample = Population(
            truth.logits[:, drawn],
            truth.labels[drawn],
            truth.reference[drawn],
            np.sort(np.cumsum(passes, axis=0), axis=1),
        )
        floating = None
        if promises.reference == "float":
            floating = np.eye(truth.logits.shape[2])[sample.reference]
        report = calibrate(
            sample.logits,
            sample.labels,
            program="litert/float32",
            promises=promises,
            latency=passes if promises.needing_latency else None,
            reference_logits=floating,
            seed=trial,
        )
        rows["certified"].append(judge(truth, promises, report.policy))
        # Its own temperatures would differ by nothing that matters, and take most of the time.
        temperatures = None if report.policy is None else report.policy.temperatures
        plain = best_candidate(sample, promises, temperatures)
        if plain is not None and promises.selective_error is not None:
            plain = plain_abstention(sample, plain, promises.selective_error)
        rows["plug-in"].append(judge(truth, promises, plain))
    oracle = best_candidate(truth, promises)
    if oracle is not None and promises.selective_error is not None:
        oracle = plain_abstention(truth, oracle, promises.selective_error)
    return {
        "promises": msgspec.to_builtins(promises),
        "trials": trials,
        **{name: _summary(results) for name, results in rows.items()},
        "oracle": judge(truth, promises, oracle),
        "no early exit": judge(truth, promises, _never(truth)),
    }


def _never(truth: Population) -> Policy:
    exits = len(truth.logits)
    return _as_policy(
        (1.0,) * exits, np.ones(exits - 1), np.zeros(exits - 1, dtype=np.bool_), exits
    )


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = [row for row in rows if row["feasible"]]
    summary: dict[str, Any] = {
        "infeasible": len(rows) - len(found),
        "broken": sum(row["broken"] for row in found),
        "broken_share": sum(row["broken"] for row in found) / len(rows),
    }
    for name in ("mean_ms", "accuracy_drop", "answered"):
        values = [row[name] for row in found if name in row]
        if values:
            summary[name] = {
                "mean": float(np.mean(values)),
                "median": float(np.median(values)),
                "p90": float(np.quantile(values, 0.9)),
            }
    return summary


def largest_fair_share(trials: int, risk: float) -> float:
    """The share of broken promises that a rate of exactly ``risk`` stays within, almost surely."""
    count = 0
    while binomial_cdf(count, trials, risk) < SURE:
        count += 1
    return count / trials


def measure(network: Cifar10Network, folder: Path) -> dict[str, Any]:
    """Latencies of the stages, and how long calibrating 10,000 images takes."""
    path = folder / "timing.json"
    if path.exists():
        read: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        return read
    stages = {}
    for program in PROGRAMS:
        with open_runtime(network.bundle, program) as runtime:
            measured = measure_stages(
                runtime, network.images[0], runs=POPULATION_RUNS, warmup_runs=100
            )
        stages[program] = [stage.samples_ms for stage in measured]
    took: dict[str, list[float]] = {}
    for name, promises in (
        ("accuracy_drop", Promises(accuracy_drop=0.01)),
        ("all at once", Promises(accuracy_drop=0.02, class_drop=0.1, mean_ms=9.0, tail_ms=9.0)),
    ):
        took[name] = []
        for program in PROGRAMS * 4:
            began = time.perf_counter()
            calibrate(
                network.logits[program],
                network.labels,
                program=program,
                promises=promises,
                latency=np.array(stages[program]),
            )
            took[name].append(time.perf_counter() - began)
    timing = {"stage_samples_ms": stages, "calibrate_s": took}
    write_atomically(path, msgspec.json.encode(timing))
    return timing


def main() -> None:
    """Run what is not done yet, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--only", choices=["timing", *PROGRAMS])
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()

    network = cifar10_network(arguments.data, cache=arguments.cache)
    folder = arguments.cache / "certificates"
    folder.mkdir(parents=True, exist_ok=True)
    timing = measure(network, folder)
    if arguments.only == "timing":
        print({name: [round(s, 3) for s in took] for name, took in timing["calibrate_s"].items()})
        return
    done: dict[str, dict[str, Any]] = {}
    for program in PROGRAMS if arguments.only is None else [arguments.only]:
        stage_ms = np.array(timing["stage_samples_ms"][program])
        logits = network.logits[program]
        truth = Population(
            logits,
            network.labels,
            logits[-1].argmax(axis=-1),
            np.sort(np.cumsum(stage_ms, axis=0), axis=1),
        )
        floating = network.logits[PROGRAMS[0]][-1].argmax(axis=-1)
        for kind, promises in make_kinds(truth, program).items():
            path = folder / f"{program} {kind} {arguments.trials}.json".replace("/", "-")
            if not path.exists():
                began = time.monotonic()
                beside = (
                    truth if promises.reference == "self" else replace(truth, reference=floating)
                )
                found = run_kind(beside, stage_ms, promises, arguments.trials)
                write_atomically(path, msgspec.json.encode(found))
                print(f"{program} {kind}: {time.monotonic() - began:.0f} s", flush=True)
            done[f"{program} {kind}"] = msgspec.json.decode(path.read_bytes())
    if arguments.only is None:
        report(arguments, timing, done)


def report(
    arguments: argparse.Namespace, timing: dict[str, Any], done: dict[str, dict[str, Any]]
) -> None:
    """Print the table and write the result."""
    from offramp.cli import console

    claims = []
    rows = []
    for name, found in done.items():
        certified, plain, oracle = found["certified"], found["plug-in"], found["oracle"]
        share = certified["broken_share"]
        fair = largest_fair_share(found["trials"], 1.0 - found["promises"]["confidence"])
        claims += [
            Claim.at_most(f"{name}: share of certified promises broken", share, fair),
            Claim(f"{name}: share of plug-in promises broken", plain["broken_share"], None, True),
        ]
        if "mean_ms" in certified and oracle["feasible"]:
            cost = certified["mean_ms"]["mean"] - oracle["mean_ms"]
            claims.append(Claim(f"{name}: mean ms above the oracle's", cost, None, True))
        rows.append(
            (
                name,
                f"{share:.1%}",
                f"{fair:.1%}",
                f"{plain['broken_share']:.1%}",
                certified["infeasible"],
                *(
                    f"{ms:.4f}"
                    for ms in (
                        certified.get("mean_ms", {"mean": np.nan})["mean"],
                        plain.get("mean_ms", {"mean": np.nan})["mean"],
                        oracle.get("mean_ms", np.nan),
                        found["no early exit"]["mean_ms"],
                    )
                ),
            )
        )
    for name, took in timing["calibrate_s"].items():
        claims.append(
            Claim.at_most(
                f"seconds to calibrate 10,000 images with 4 exits, median, {name}",
                float(np.median(took)),
                TIME_GOAL_S,
            )
        )
        print(f"calibrating 10,000 images, {name}: median {np.median(took):.3f} s")
    columns = ("promise", "broken", "goal", "plug-in broken", "infeasible")
    console.table((*columns, "ms", "plug-in ms", "oracle ms", "no exit ms"), rows)
    write_result(
        arguments.result,
        purpose="How often certified promises are broken, and what the certainty costs",
        command=["certificates.py", "--data", "DATA_FOLDER", "--trials", str(arguments.trials)],
        claims=claims,
        figures={
            "calibration_images": IMAGES,
            "latency_runs": LATENCY_RUNS,
            "timing": {
                "calibrate_s": timing["calibrate_s"],
                "stage_mean_ms": {
                    program: [float(np.mean(stage)) for stage in stages]
                    for program, stages in timing["stage_samples_ms"].items()
                },
            },
            "promises": done,
        },
    )


if __name__ == "__main__":
    main()
