"""Threads: what they gain, and whether they disturb each other.

Throughput: the same test images go through `predict_many` with 1, 2 and 4 workers, and through a
plain loop over `predict`; every image runs to the last exit, so that the work is the same. The ways
take turns on the same images, and the ratio is taken turn by turn.

Steadiness: eight threads share one classifier of four workers and make 100,000 predictions that
stop early. Each is compared, exit, class and every probability bit for bit, with what a single
thread answered; the resident memory is noted on the way.

    .venv/bin/python benchmarks/threads.py --data DATA_FOLDER [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar10 import CACHE, PROGRAMS, cifar10_network
from offramp import DynamicClassifier, Policy
from offramp_search.report import Claim, write_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from offramp import Bundle, Prediction

RESULT = Path(__file__).parent / "results" / "threads.json"
WORKERS = (1, 2, 4)
IMAGES_PER_TURN = 500
THREADS, COPIES, PREDICTIONS = 8, 4, 100_000
GROWTH_MB = 2.0  # what the allocator and the interpreter may still take after the first fifth


def _early(program: str) -> Policy:
    """Stops wherever an exit is fairly sure; what it promises does not matter here."""
    return Policy(
        name="early",
        program=program,
        signal="max_probability",
        temperatures=(1.0,) * 4,
        thresholds=(0.7, 0.8, 0.8, 0.0),
        enabled=(True,) * 4,
    )


def throughput(
    bundle: Bundle, program: str, images: NDArray[np.uint8], turns: int
) -> dict[str, list[float]]:
    """Images per second of each way, turn by turn."""
    classifiers = {
        workers: DynamicClassifier.load(bundle, program=program, policy="last", workers=workers)
        for workers in WORKERS
    }
    ways: dict[str, Callable[[list[NDArray[np.uint8]]], Iterator[Prediction]]] = {
        "loop": lambda part: map(classifiers[1].predict, part)
    }
    for workers, classifier in classifiers.items():
        ways[f"{workers} workers"] = classifier.predict_many
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, turns):
        begin = (turn % (len(images) // IMAGES_PER_TURN)) * IMAGES_PER_TURN
        part = list(images[begin : begin + IMAGES_PER_TURN])
        order = list(ways.items())
        for name, way in order if turn % 2 else reversed(order):
            began = time.perf_counter()
            count = _count(way(part))
            took_s = time.perf_counter() - began
            assert count == len(part)
            if turn >= 0:  # the first turn warms up
                rates[name].append(count / took_s)
    for classifier in classifiers.values():
        classifier.close()
    return rates


def _count(predictions: Iterable[Prediction]) -> int:
    return sum(1 for _ in predictions)


def steadiness(bundle: Bundle, program: str, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Many predictions by many threads, against those of one thread."""
    policy = _early(program)
    with DynamicClassifier.load(bundle, program=program, policy=policy) as classifier:
        alone = [classifier.predict(image) for image in images]
        exits = np.array([answer.exit for answer in alone])
        indices = np.array([answer.index for answer in alone])
        probabilities = np.array([answer.probabilities for answer in alone])
    differ = [0] * THREADS
    done = [0] * THREADS
    each = PREDICTIONS // THREADS

    with DynamicClassifier.load(
        bundle, program=program, policy=policy, workers=COPIES
    ) as classifier:

        def work(number: int) -> None:
            # Each begins elsewhere, so that at no time all threads see the same image.
            place = number * len(images) // THREADS
            for _ in range(each):
                answer = classifier.predict(images[place])
                differ[number] += not (
                    answer.exit == exits[place]
                    and answer.index == indices[place]
                    and np.array_equal(answer.probabilities, probabilities[place])
                )
                done[number] += 1
                place = (place + 1) % len(images)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        memory: list[tuple[int, float]] = []
        while any(thread.is_alive() for thread in threads):
            memory.append((sum(done), _resident_mb()))
            time.sleep(0.1)
        for thread in threads:
            thread.join()
        took_s = time.perf_counter() - began
    settled = [mb for count, mb in memory if count >= PREDICTIONS // 5]
    return {
        "predictions": sum(done),
        "differing": sum(differ),
        "images_per_second": sum(done) / took_s,
        "exit_shares": (np.bincount(exits, minlength=4) / len(exits)).tolist(),
        "growth_mb": max(settled) - settled[0],
        "resident_mb": memory,
    }


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--turns", type=int, default=20, help=f"of {IMAGES_PER_TURN} images")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()

    network = cifar10_network(arguments.data, cache=arguments.cache)
    claims, figures = [], {}
    for program in PROGRAMS:
        rates = throughput(network.bundle, program, network.images, arguments.turns)
        ratios = {
            name: [rate / base for rate, base in zip(taken, rates["1 workers"], strict=True)]
            for name, taken in rates.items()
        }
        print(program)
        for name, taken in rates.items():
            ratio = statistics.median(ratios[name])
            print(f"  {name:10} {statistics.median(taken):8.0f} images/s   {ratio:.2f} of 1 worker")
            if name != "1 workers":
                claims.append(
                    Claim(
                        f"throughput of {name} over predict_many with 1 worker, {program}, "
                        "median of the turns",
                        ratio,
                        None,
                        met=True,
                    )
                )
        figures[program] = {
            "images_per_second": {
                name: {"median": statistics.median(taken), "p10": float(np.quantile(taken, 0.1))}
                for name, taken in rates.items()
            },
            "ratio_to_1_worker": {
                name: {
                    "median": statistics.median(taken),
                    "p90": float(np.quantile(taken, 0.9)),
                    "samples": taken,
                }
                for name, taken in ratios.items()
            },
        }
    steady = steadiness(network.bundle, "litert/int8", network.images)
    print(
        f"{steady['predictions']} predictions by {THREADS} threads: {steady['differing']} differ, "
        f"memory grew by {steady['growth_mb']:.2f} MB"
    )
    claims += [
        Claim.at_least(
            f"predictions made by {THREADS} threads at once", steady["predictions"], PREDICTIONS
        ),
        Claim.at_most(
            "predictions that differ from those of one thread, in exit, class or any probability",
            steady["differing"],
            0,
        ),
        Claim.at_most(
            "MB that the resident memory grows by after the first fifth of the predictions",
            steady["growth_mb"],
            GROWTH_MB,
        ),
    ]
    write_result(
        arguments.result,
        purpose="What threads gain, and that they do not disturb each other",
        claims=claims,
        figures={
            "turns": arguments.turns,
            "images_per_turn": IMAGES_PER_TURN,
            "threads": THREADS,
            "workers": COPIES,
            "throughput": figures,
            "steadiness": steady,
        },
    )


if __name__ == "__main__":
    main()
