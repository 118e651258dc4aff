"""Slowdown: images made to keep a network from stopping early, and what holds against them.

Images of the test split are perturbed in three ways: gaussian noise, patterns of the highest
frequencies, and a gradient attack on the confidence of every early exit (projected gradient descent
towards equal probabilities in an L-infinity ball, computed on the torch network; DeepSloth, Hong et
al. 2021, arXiv 2010.02432, section 4). Each set goes through the exported program under a certified
policy, and then again with a deadline, and with a governor that may switch to a cheaper policy.

Policies are calibrated on the first half of the test split; everything is judged on images of the
second half. The cheaper policy also promises a tail latency, by never running the last stage: a
policy that only has lower thresholds saves nothing on images that no exit is sure of. All sets and
ways take turns of fifty images, so that all meet the same machine. Stages are timed for real; for
the governor, frames come at a fixed rate on a clock that is only counted, so that its windows are
the same on every machine.

    .venv/bin/python benchmarks/slowdown.py --data DATA_FOLDER [--cache FOLDER] [--attack-only]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from cifar10 import CACHE, Cifar10Network, cifar10_network
from offramp import DynamicClassifier, Latency
from offramp._files import write_atomically
from offramp.bundle import Bundle, LatencyEntry
from offramp.calibration import Promises, calibrate
from offramp.governor import GovernedClassifier
from offramp.profiling import device_record, measure_stages
from offramp.runtimes import open_runtime
from offramp_search.report import Claim, write_result

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp import Prediction
    from offramp.classifier import Classifier

RESULT = Path(__file__).parent / "results" / "slowdown.json"
PROGRAMS = ("litert/float32", "litert/int8")
IMAGES = 500
ROUNDS = 2
RUNS = 1000  # of the profile
LIMITS = {"accurate": 0.01, "saver": 0.12}  # certified drops of accuracy
SPARE = 0.5  # the budget: so far from what clean images cost to what running all stages costs
RELATIVE_RATE = 2.0  # frames come at intervals of so many times the whole chain
WINDOW_FRAMES = 20
TAIL_QUANTILE = 0.9  # one that a busy minute does not move beyond the time of a whole stage
ATTACK_STEPS = 20
IMAGES_PER_TURN = 50


def perturbed(network: Cifar10Network, folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Each set of images by its name, clean ones first; kept in a file each."""
    chosen = slice(len(network.images) // 2, len(network.images) // 2 + IMAGES)
    clean, labels = network.images[chosen], network.labels[chosen]
    generator = np.random.default_rng(0)
    sets = {"clean": clean}
    for deviation in (8, 16):
        noise = generator.normal(0, deviation, clean.shape)
        sets[f"noise, deviation {deviation}"] = _rounded(clean + noise)
    checks = np.indices(clean.shape[1:3]).sum(axis=0) % 2 * 2 - 1
    stripes = np.indices(clean.shape[1:3])[1] % 2 * 2 - 1
    for name, pattern in (("checks", checks), ("stripes", stripes)):
        for size in (8, 16):
            sets[f"{name} of {size}"] = _rounded(clean + size * pattern[..., None])
    for size in (2, 8):
        path = folder / f"attack-{size}-of-{IMAGES}.npy"
        if not path.exists():
            content = io.BytesIO()
            np.save(content, attack(network, clean, size))
            write_atomically(path, content.getvalue())
        sets[f"attack, {size} of 255"] = np.load(path)
    assert len(labels) == IMAGES
    return sets


def _rounded(values: NDArray[Any]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(values).clip(0, 255).astype(np.uint8)
    return rounded


def attack(network: Cifar10Network, images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Images within ``size`` steps of the given ones whose early exits are as unsure as can be."""
    import torch

    torch.manual_seed(0)
    module = network.network()
    found = []
    for begin in range(0, len(images), 100):
        clean = torch.from_numpy(images[begin : begin + 100].astype(np.float32))
        change = torch.empty_like(clean).uniform_(-size, size)
        for _ in range(ATTACK_STEPS):
            change.requires_grad_(True)
            early = module((clean + change).clamp(0, 255))[:-1]
            # The cross-entropy with equal probabilities, summed over the early exits.
            unsure = -sum(logits.log_softmax(dim=1).mean() for logits in early)
            (gradient,) = torch.autograd.grad(unsure, change)
            change = change.detach() - size / 4 * gradient.sign()
            change = change.clamp(-size, size)
        found.append(_rounded((clean + change).numpy()))
        print(f"attack of {size}: {begin + len(clean)} of {len(images)}", flush=True)
    return np.concatenate(found)


@final
@dataclass(frozen=True, slots=True)
class _Run:
    """What one way of predicting did to one set of images.

    The time of the stages is that of the last round: in the first the governor may spend the
    bucket that it begins with.
    """

    mean_exit: float
    accuracy: float
    mean_ms: float
    median_ms: float
    p90_ms: float
    p99_ms: float
    stage_ms_per_image: float
    deadline_answers: float
    saver_share: float


@final
class _Clock:
    """Time that passes by being counted."""

    now_ms = 0.0

    def __call__(self) -> float:
        return self.now_ms


@final
class _Way:
    """One way of predicting, one set of images, and the answers so far."""

    def __init__(self, classifier: Classifier, images: NDArray[np.uint8]) -> None:
        self.classifier = classifier
        self.images = images
        self.clock = _Clock()
        self.answers: list[Prediction] = []

    def turn(self, begin: int, period_ms: float) -> None:
        part = self.images[begin : begin + IMAGES_PER_TURN]
        # Others have used the caches in between. A frame of the governor's costs it time, too.
        for image in part[:3]:
            self.clock.now_ms += period_ms
            self.classifier.predict(image)
        for image in part:
            self.clock.now_ms += period_ms
            self.answers.append(self.classifier.predict(image))

    def run(self, labels: NDArray[np.int64]) -> _Run:
        answers = self.answers
        total = Latency(tuple(answer.total_ms for answer in answers))
        right = np.array([answer.index for answer in answers]) == np.resize(labels, len(answers))
        return _Run(
            mean_exit=float(np.mean([answer.exit for answer in answers])),
            accuracy=float(right.mean()),
            mean_ms=total.mean_ms,
            median_ms=total.median_ms,
            p90_ms=total.p90_ms,
            p99_ms=total.p99_ms,
            stage_ms_per_image=float(
                np.mean([sum(answer.stage_ms) for answer in answers[-len(self.images) :]])
            ),
            deadline_answers=float(np.mean([answer.reason == "deadline" for answer in answers])),
            saver_share=float(np.mean([answer.policy == "saver" for answer in answers])),
        )


def prepare(network: Cifar10Network, program: str, folder: Path) -> Bundle:
    """A bundle with two certified policies, and a profile of this device."""
    half = len(network.images) // 2
    logits, labels = network.logits[program][:, :half], network.labels[:half]
    shutil.copytree(network.bundle.path, folder)
    bundle = Bundle.open(folder)
    with open_runtime(bundle, program) as runtime:
        stages = measure_stages(runtime, network.images[0], runs=RUNS, warmup_runs=50)
    profile = LatencyEntry(
        program=program,
        device=device_record(),
        threads=1,
        stage_samples_ms=tuple(stage.samples_ms for stage in stages),
        warmup_runs=stages[0].warmup_runs,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    # Between what all stages take and what all but the last do.
    up_to = np.cumsum([stage.samples_ms for stage in stages], axis=0)
    tail_ms = float(
        np.mean([Latency(tuple(taken)).bound_ms(TAIL_QUANTILE) for taken in up_to[-2:]])
    )
    for name, promises in {
        "accurate": Promises(accuracy_drop=LIMITS["accurate"]),
        "saver": Promises(
            accuracy_drop=LIMITS["saver"], tail_ms=tail_ms, quantile=TAIL_QUANTILE, cap="hard"
        ),
    }.items():
        report = calibrate(
            logits, labels, program=program, promises=promises, latency=profile, name=name
        )
        bundle = bundle.add_policy(report.certified())
    return bundle.add_latency(profile)


def measure(
    network: Cifar10Network, program: str, sets: dict[str, NDArray[np.uint8]]
) -> tuple[list[Claim], dict[str, Any]]:
    """All ways on all sets, for one program."""
    half = len(network.images) // 2
    labels = network.labels[half : half + IMAGES]
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        bundle = prepare(network, program, Path(temporary) / "bundle")

        def load(policy: str, deadline_ms: float | None = None) -> DynamicClassifier:
            return stack.enter_context(
                DynamicClassifier.load(
                    bundle, program=program, policy=policy, deadline_ms=deadline_ms
                )
            )

        full, accurate = load("last"), load("accurate")
        limits_ms = full.stage_limits.ms
        # Room for the first two stages and their answer, and not for the third.
        deadline_ms = sum(limits_ms[:2]) + 0.5 * limits_ms[2]
        dutiful = load("accurate", deadline_ms)
        trial = [_Way(classifier, sets["clean"]) for classifier in (full, accurate)]
        for begin in range(0, IMAGES, IMAGES_PER_TURN):
            for way in trial:
                way.turn(begin, 0.0)
        whole_ms, clean_ms = (way.run(labels).stage_ms_per_image for way in trial)
        period_ms = RELATIVE_RATE * whole_ms
        a_frame_ms = clean_ms + SPARE * (whole_ms - clean_ms)
        ways: dict[str, dict[str, _Way]] = {}
        for name, images in sets.items():
            ways[name] = {
                "last exit": _Way(full, images),
                "accurate": _Way(accurate, images),
                "with deadline": _Way(dutiful, images),
            }
            clock = _Clock()
            governed = GovernedClassifier(
                load("accurate"),
                tuple(LIMITS),
                budget_ms=a_frame_ms * WINDOW_FRAMES,
                window_ms=period_ms * WINDOW_FRAMES,
                now_ms=clock,
            )
            ways[name]["governed"] = _Way(governed, images)
            ways[name]["governed"].clock = clock
        began, began_on_processor = time.perf_counter(), time.process_time()
        for number in range(ROUNDS * IMAGES // IMAGES_PER_TURN):
            everyone = [way for of_set in ways.values() for way in of_set.values()]
            for way in everyone if number % 2 else reversed(everyone):
                way.turn(number * IMAGES_PER_TURN % IMAGES, period_ms)
        share = (time.process_time() - began_on_processor) / (time.perf_counter() - began)
    runs = {
        name: {kind: way.run(labels) for kind, way in of_set.items()}
        for name, of_set in ways.items()
    }
    _print(program, runs, deadline_ms, a_frame_ms)
    print(f"  {share:.1%} of the time on the processor; the rest it was somebody else's")
    figures = {
        "stage_limits_ms": limits_ms,
        "deadline_ms": deadline_ms,
        "budget_ms_per_frame": a_frame_ms,
        "frames_per_window": WINDOW_FRAMES,
        "period_ms": period_ms,
        "share_of_time_on_the_processor": share,
        "policies": [known for known in bundle.manifest.policies if known.program == program],
        "runs": runs,
    }
    return _claims(program, runs, deadline_ms, a_frame_ms), figures


def _claims(
    program: str, runs: dict[str, dict[str, _Run]], deadline_ms: float, budget_ms: float
) -> list[Claim]:
    claims = []
    clean = runs["clean"]["accurate"]
    for name, ways in runs.items():
        run = ways["accurate"]
        for text, value in (
            ("mean exit", run.mean_exit),
            ("slowdown: mean ms over that of clean images", run.mean_ms / clean.mean_ms),
            ("accuracy at the deadline over that without", _ratio(ways, "with deadline")),
            ("accuracy under the governor over that without", _ratio(ways, "governed")),
        ):
            claims.append(Claim(f"{text}; {name}, {program}", value, None, met=True))
    worst = {way: max(ways[way].p99_ms for ways in runs.values()) for way in runs["clean"]}
    cheap = max(ways["governed"].stage_ms_per_image for ways in runs.values())
    return [
        *claims,
        Claim.at_most(
            f"worst 99th percentile of all sets when stopping early, over the worst when every "
            f"image runs to the last exit; {program}",
            worst["accurate"] / worst["last exit"],
            1.1,
        ),
        Claim.at_most(
            f"worst 99th percentile of all sets with a deadline, over the deadline; {program}",
            worst["with deadline"] / deadline_ms,
            1.0,
        ),
        Claim.at_most(
            f"most stage milliseconds a frame of all sets under the governor, over the budget; "
            f"{program}",
            cheap / budget_ms,
            1.0,
        ),
    ]


def _ratio(ways: dict[str, _Run], way: str) -> float:
    return ways[way].accuracy / max(ways["accurate"].accuracy, 1e-9)


def _print(
    program: str, runs: dict[str, dict[str, _Run]], deadline_ms: float, budget_ms: float
) -> None:
    print(f"{program}: deadline {deadline_ms:.2f} ms, budget {budget_ms:.2f} ms a frame")
    print(f"  {'':20} {'':14} exit  right   mean ms  p99 ms  stages ms  deadline  saver")
    for name, ways in runs.items():
        for way, run in ways.items():
            print(
                f"  {name:20} {way:14} {run.mean_exit:.2f} {run.accuracy:6.1%} "
                f"{run.mean_ms:9.3f} {run.p99_ms:7.3f} {run.stage_ms_per_image:10.3f} "
                f"{run.deadline_answers:9.1%} {run.saver_share:6.1%}"
            )
            name = ""


def main() -> None:
    """Attack, measure, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument(
        "--attack-only", action="store_true", help="compute and keep the attacked images only"
    )
    arguments = parser.parse_args()
    network = cifar10_network(arguments.data, cache=arguments.cache)
    folder = arguments.cache / "slowdown" / network.weights.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    sets = perturbed(network, folder)
    if arguments.attack_only:
        return
    claims: list[Claim] = []
    figures = {}
    for program in PROGRAMS:
        made, figures[program] = measure(network, program, sets)
        claims += made
    write_result(
        arguments.result,
        purpose="What images made to keep a network from stopping early cost, and what holds",
        claims=claims,
        figures={
            "images": IMAGES,
            "rounds": ROUNDS,
            "certified_drops": LIMITS,
            "attack_steps": ATTACK_STEPS,
            "programs": figures,
        },
        command=["slowdown.py", "--data", "DATA_FOLDER", "--cache", "FOLDER"],
    )


if __name__ == "__main__":
    main()
