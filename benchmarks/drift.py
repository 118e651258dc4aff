"""Drift: how often the alarm is wrong, how soon it is right, and what a monitor costs.

The network is the four-exit ResNet-20 of cifar10.py, its int8 LiteRT program. Its 10,000 test
images are taken as the whole population. For each of 200 streams a policy is certified on 5,000
images drawn from it with replacement, and 20,000 further draws are the stream: nothing has drifted,
so every alarm is false. Then the test images are recompressed as JPEG, or blurred, and go through
the program; a stream of clean images changes to these after 5,000 predictions, or starts with them.

One stream of each kind goes through `DynamicClassifier.predict` with a `Monitor`, shadow runs
included, image by image; its counts are compared with those computed from logits. Last, predictions
with and without a monitor take turns.

    .venv/bin/python benchmarks/drift.py --data DATA_FOLDER [--cache FOLDER] [--only drift]

`--only drift` leaves out what depends on speed. What was done already is kept in the cache.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFilter

from cifar10 import CACHE, Cifar10Network, cifar10_network
from offramp import DynamicClassifier, Latency
from offramp._files import write_atomically
from offramp.calibration import Promises, calibrate
from offramp.monitoring import DriftAlarm, Monitor
from offramp.policy import choose_exits
from offramp.profiling import collect_logits
from offramp.runtimes import open_runtime
from offramp_search.report import Claim, write_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from offramp.bundle import Policy

RESULT = Path(__file__).parent / "results" / "drift.json"
PROGRAM = "litert/int8"
ALPHA = 0.01
CLEAN_STREAMS = 200
CLEAN_LENGTH = 20_000
CALIBRATION_IMAGES = 5_000
CALM = 5_000
DRIFT_STREAMS = 50
DRIFT_LENGTH = 20_000
LIVE_CALM = 3_000
LIVE_DRIFT = 3_000
MOST_FALSE_ALARMS = 6  # more than that have a chance of 0.4 % at a true rate of ALPHA
TURNS, RUNS_PER_TURN = 80, 50
RECORDS_PER_TURN = 16  # of each prediction
GOAL_US = 5.0
KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 50": lambda picture: _recompressed(picture, 50),
    "JPEG, quality 20": lambda picture: _recompressed(picture, 20),
    "blur of 0.5 pixels": lambda picture: picture.filter(ImageFilter.GaussianBlur(0.5)),
    "blur of 1 pixel": lambda picture: picture.filter(ImageFilter.GaussianBlur(1.0)),
}


def _recompressed(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def changed(images: NDArray[np.uint8], kind: str) -> NDArray[np.uint8]:
    """Every image, recompressed or blurred."""
    change = KINDS[kind]
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def changed_logits(network: Cifar10Network, kind: str, folder: Path) -> NDArray[np.float32]:
    """What the program says of the changed images."""
    path = folder / f"logits-{kind.replace(' ', '-').replace(',', '')}.npy"
    if not path.exists():
        print(f"{kind}: running {len(network.images)} images", flush=True)
        with open_runtime(network.bundle, PROGRAM) as runtime:
            logits = collect_logits(runtime, changed(network.images, kind))
        content = io.BytesIO()
        np.save(content, logits)
        write_atomically(path, content.getvalue())
    logits_kept: NDArray[np.float32] = np.load(path)
    return logits_kept


def certified(network: Cifar10Network, rng: np.random.Generator, seed: int) -> Policy:
    """A policy calibrated on images drawn from all of them."""
    chosen = rng.integers(len(network.labels), size=CALIBRATION_IMAGES)
    return calibrate(
        network.logits[PROGRAM][:, chosen],
        network.labels[chosen],
        program=PROGRAM,
        promises=Promises(accuracy_drop=0.02),
        seed=seed,
    ).certified()


def feed(alarm: DriftAlarm, exits: NDArray[np.int64]) -> bool:
    """Add exits until there is an alarm."""
    for exit in exits.tolist():
        alarm.add(exit)
        if alarm.alarmed:
            return True
    return False


def clean_streams(network: Cifar10Network) -> dict[str, Any]:
    """False alarms on streams of the very population that was calibrated on."""
    alarms = []
    for stream in range(CLEAN_STREAMS):
        rng = np.random.default_rng([1, stream])
        policy = certified(network, rng, stream)
        exits = choose_exits(policy, network.logits[PROGRAM])
        alarm = DriftAlarm(policy.exit_counts, ALPHA)
        drawn = exits[rng.integers(len(exits), size=CLEAN_LENGTH)]
        alarms.append(alarm.total if feed(alarm, drawn) else None)
        if stream % 20 == 19:
            print(f"{stream + 1} clean streams, {_raised(alarms)} alarms", flush=True)
    return {"streams": CLEAN_STREAMS, "length": CLEAN_LENGTH, "alarmed_at": alarms}


def _raised(alarms: list[int | None]) -> int:
    return sum(at is not None for at in alarms)


def drifted_streams(network: Cifar10Network, kind: str, folder: Path) -> dict[str, Any]:
    """How many predictions it takes from a change to the alarm."""
    logits = changed_logits(network, kind, folder)
    delays: dict[str, list[int | None]] = {"from the start": [], f"after {CALM}": []}
    early = 0
    shares = np.zeros((2, len(logits)))
    accuracy = np.zeros((2, 2))
    for stream in range(DRIFT_STREAMS):
        rng = np.random.default_rng([2, stream])
        policy = certified(network, rng, stream)
        before = choose_exits(policy, network.logits[PROGRAM])
        after = choose_exits(policy, logits)
        for place, (exits, of) in enumerate(((before, network.logits[PROGRAM]), (after, logits))):
            shares[place] += np.bincount(exits, minlength=len(logits)) / len(exits) / DRIFT_STREAMS
            answers = of.argmax(axis=-1)
            right = answers[exits, np.arange(len(exits))] == network.labels
            last = answers[-1] == network.labels
            accuracy[place] += np.array([right.mean(), last.mean()]) / DRIFT_STREAMS
        for name, calm in (("from the start", 0), (f"after {CALM}", CALM)):
            alarm = DriftAlarm(policy.exit_counts, ALPHA)
            if feed(alarm, before[rng.integers(len(before), size=calm)]):
                early += 1
                continue
            seen = feed(alarm, after[rng.integers(len(after), size=DRIFT_LENGTH)])
            delays[name].append(alarm.total - calm if seen else None)
    return {
        "delays": delays,
        "alarms_before_the_change": early,
        "exit_shares": {"clean": shares[0].tolist(), "changed": shares[1].tolist()},
        "accuracy": {
            name: {"early_exit": values[0], "last_exit": values[1]}
            for name, values in zip(("clean", "changed"), accuracy.tolist(), strict=True)
        },
    }


def quantile(delays: list[int | None], share: float) -> float | None:
    """Of the delays; ``None`` where the stream ended first."""
    ordered = sorted(DRIFT_LENGTH + 1 if delay is None else delay for delay in delays)
    value = ordered[int(np.ceil(share * len(ordered))) - 1]
    return None if value > DRIFT_LENGTH else value


def live_stream(network: Cifar10Network, kind: str) -> dict[str, Any]:
    """Clean images and then changed ones through a classifier with a monitor."""
    rng = np.random.default_rng(3)
    policy = certified(network, rng, 0)
    bundle = network.bundle
    monitor = Monitor(4, [policy], alpha=ALPHA, shadow_rate=0.02, seed=0)
    places = rng.integers(len(network.labels), size=LIVE_CALM + LIVE_DRIFT)
    later = changed(network.images[places[LIVE_CALM:]], kind)
    exits = []
    with DynamicClassifier.load(bundle, program=PROGRAM, policy=policy, monitor=monitor) as early:
        for image in network.images[places[:LIVE_CALM]]:
            exits.append(early.predict(image).exit)
        calm = monitor.drifted
        for image in later:
            exits.append(early.predict(image).exit)
    expected = DriftAlarm(policy.exit_counts, ALPHA)
    for exit in exits:
        expected.add(exit)
    figures = monitor.summary()
    same = tuple(expected.counts) == monitor.state().drift[0].counts
    assert same, "the monitor counts what predict answers"
    assert figures.drift[0].alarmed_at == expected.alarmed_at
    alarmed_at = figures.drift[0].alarmed_at
    return {
        "alarm_while_calm": calm,
        "delay": None if alarmed_at is None else alarmed_at - LIVE_CALM,
        "confidence_psi": figures.confidence_psi,
        "shadow_runs": figures.shadow_runs,
        "shadow_disagreements": figures.shadow_disagreements,
        "shadow_disagreement_bound": figures.shadow_disagreement_bound,
    }


def timings(network: Cifar10Network) -> dict[str, Any]:
    """Predictions with and without a monitor in turns, and `record` by itself."""
    rng = np.random.default_rng(4)
    policy = certified(network, rng, 0)
    images = network.images[rng.integers(len(network.labels), size=RUNS_PER_TURN)]
    # Shadow runs cost what stages cost; here it is the counting that counts.
    monitor = Monitor(4, [policy], shadow_rate=0.0)
    options: dict[str, Any] = {"program": PROGRAM, "policy": policy}
    samples: dict[str, list[float]] = {"without": [], "with": []}
    with (
        DynamicClassifier.load(network.bundle, **options) as bare,
        DynamicClassifier.load(network.bundle, **options, monitor=monitor) as watched,
    ):
        ways = [("without", bare), ("with", watched)]
        for turn in range(1 + TURNS):
            for name, classifier in ways if turn % 2 else reversed(ways):
                for image in images:
                    began_ns = time.perf_counter_ns()
                    classifier.predict(image)
                    if turn:  # the first one warms up
                        samples[name].append((time.perf_counter_ns() - began_ns) / 1e6)
        predictions = [bare.predict(image) for image in images]
    record_us = []
    for _ in range(TURNS):
        # Most calls only put the prediction aside; so many have their share of the counting.
        began_ns = time.perf_counter_ns()
        for prediction in RECORDS_PER_TURN * predictions:
            monitor.record(prediction)
        spent_us = (time.perf_counter_ns() - began_ns) / 1e3
        record_us.append(spent_us / (RECORDS_PER_TURN * len(predictions)))
    latencies = {name: Latency(tuple(taken)) for name, taken in samples.items()}
    return {
        "predict_ms": {
            name: {"median": latency.median_ms, "p90": latency.p90_ms, "mean": latency.mean_ms}
            for name, latency in latencies.items()
        },
        "with_over_without_median": latencies["with"].median_ms / latencies["without"].median_ms,
        "median_added_us": 1e3 * (latencies["with"].median_ms - latencies["without"].median_ms),
        "mean_added_us": 1e3 * (latencies["with"].mean_ms - latencies["without"].mean_ms),
        "record_alone_us": {
            "median": float(np.median(record_us)),
            "p90": float(np.quantile(record_us, 0.9)),
        },
        "samples_ms": {name: [round(ms, 5) for ms in taken] for name, taken in samples.items()},
    }


def kept(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part of the result, from the cache if it is there."""
    if not path.exists():
        write_atomically(path, json.dumps(compute()).encode())
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--only", choices=("drift",), help="leave out what depends on speed")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    network = cifar10_network(arguments.data, cache=arguments.cache)
    folder: Path = arguments.cache / "drift"
    folder.mkdir(parents=True, exist_ok=True)

    clean = kept(folder / "clean.json", lambda: clean_streams(network))
    false_alarms = _raised(clean["alarmed_at"])
    print(f"clean: {false_alarms} of {CLEAN_STREAMS} streams of {CLEAN_LENGTH} raised an alarm")
    claims = [
        Claim.at_most(
            f"false alarms at {ALPHA:.0%} on {CLEAN_STREAMS} clean streams of {CLEAN_LENGTH}",
            false_alarms,
            MOST_FALSE_ALARMS,
        )
    ]
    figures: dict[str, Any] = {"alpha": ALPHA, "clean": clean}
    for number, kind in enumerate(KINDS):
        drifted = kept(
            folder / f"drifted-{number}.json",
            lambda kind=kind: drifted_streams(network, kind, folder),  # type: ignore[misc]
        )
        live = kept(
            folder / f"live-{number}.json",
            lambda kind=kind: live_stream(network, kind),  # type: ignore[misc]
        )
        drifted["delay_quantiles"] = {
            name: {"median": quantile(delays, 0.5), "p90": quantile(delays, 0.9)}
            for name, delays in drifted["delays"].items()
        }
        figures[kind] = {**drifted, "live": live}
        print(f"{kind}: accuracy {drifted['accuracy']}")
        print(f"  exits {drifted['exit_shares']}")
        print(f"  delays {drifted['delay_quantiles']}, live {live}")
        for name, delays in drifted["delays"].items():
            seen = len(delays) - delays.count(None)
            claims.append(
                Claim(
                    f"share of streams with an alarm within {DRIFT_LENGTH} predictions of "
                    f"{kind}, {name}",
                    seen / len(delays),
                    None,
                    True,
                )
            )
            median = quantile(delays, 0.5)
            if median is not None:
                claims.append(
                    Claim(f"median predictions until the alarm, {kind}, {name}", median, None, True)
                )
    if arguments.only == "drift":
        return
    timing = timings(network)
    figures["timing"] = timing
    print({name: value for name, value in timing.items() if name != "samples_ms"})
    claims += [
        Claim.at_most(
            "median microseconds that a monitor adds to predict", timing["median_added_us"], GOAL_US
        ),
        Claim.at_most(
            "median microseconds of record by itself", timing["record_alone_us"]["median"], GOAL_US
        ),
    ]
    write_result(
        arguments.result,
        purpose="How often the drift alarm is wrong, how soon it is right, and what it costs",
        claims=claims,
        figures=figures,
    )


if __name__ == "__main__":
    main()
