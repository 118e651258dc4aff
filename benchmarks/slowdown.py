"""Slowdown: images made to keep a network from stopping early, and what holds against them.

Images of the test split are perturbed in three ways: gaussian noise, patterns of the highest
frequencies, and a gradient attack on the confidence of every early exit (projected gradient descent
towards equal probabilities in an L-infinity ball, computed on the torch network; DeepSloth, Hong et
al. 2021, arXiv 2010.02432, section 4). Each set goes through the exported program under a certified
policy, and then again with a deadline, and with a governor that may switch to a cheaper policy.

Policies are calibrated on the first half of the test split; everything is judged on images of the
second half. Stages are timed for real; for the governor, frames come at a fixed rate on a clock
that is only counted, so that its windows are the same on every machine.

    .venv/bin/python benchmarks/slowdown.py --data DATA_FOLDER [--cache FOLDER] [--attack-only]
"""

from __future__ import annotations

import argparse
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from cifar10 import CACHE, Cifar10Network, cifar10_network
from offramp import DynamicClassifier, Latency
from offramp._files import write_atomically
from offramp.bundle import Bundle, LatencyEntry, Policy
from offramp.calibration import Promises, calibrate
from offramp.governor import GovernedClassifier
from offramp.profiling import device_record, measure_stages
from offramp.runtimes import open_runtime
from offramp_search.report import Claim, write_result

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESULT = Path(__file__).parent / "results" / "slowdown.json"
PROGRAMS = ("litert/float32", "litert/int8")
IMAGES = 500
ROUNDS = 2
RUNS = 1000  # of the profile
LIMITS = {"accurate": 0.01, "saver": 0.10}  # certified drops of accuracy
SPARE = 0.5  # the budget: so far from what clean images cost to what running all stages costs
RELATIVE_RATE = 2.0  # frames come at intervals of so many times the whole chain
WINDOW_FRAMES = 20
ATTACK_STEPS = 20


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


def _predict(
    classifier: DynamicClassifier | GovernedClassifier,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    clock: _Clock | None = None,
    period_ms: float = 0.0,
) -> _Run:
    for image in images[:20]:
        classifier.predict(image)
    answers = []
    for _ in range(ROUNDS):
        for image in images:
            if clock is not None:
                clock.now_ms += period_ms
            answers.append(classifier.predict(image))
    total = Latency(tuple(answer.total_ms for answer in answers))
    right = np.array([answer.index for answer in answers]) == np.tile(labels, ROUNDS)
    return _Run(
        mean_exit=float(np.mean([answer.exit for answer in answers])),
        accuracy=float(right.mean()),
        mean_ms=total.mean_ms,
        median_ms=total.median_ms,
        p90_ms=total.p90_ms,
        p99_ms=total.p99_ms,
        stage_ms_per_image=float(
            np.mean([sum(answer.stage_ms) for answer in answers[-len(images) :]])
        ),
        deadline_answers=float(np.mean([answer.reason == "deadline" for answer in answers])),
        saver_share=float(np.mean([answer.policy == "saver" for answer in answers])),
    )


def prepare(network: Cifar10Network, program: str, folder: Path) -> Bundle:
    """A bundle with two certified policies, and a profile of this device."""
    half = len(network.images) // 2
    logits, labels = network.logits[program][:, :half], network.labels[:half]
    bundle = network.bundle
    policies: list[Policy] = [
        calibrate(
            logits,
            labels,
            program=program,
            promises=Promises(accuracy_drop=limit),
            name=name,
        ).certified()
        for name, limit in LIMITS.items()
    ]
    bundle = _copy(bundle, folder)
    for policy in policies:
        bundle = bundle.add_policy(policy)
    with open_runtime(bundle, program) as runtime:
        stages = measure_stages(runtime, network.images[0], runs=RUNS, warmup_runs=50)
    return bundle.add_latency(
        LatencyEntry(
            program=program,
            device=device_record(),
            threads=1,
            stage_samples_ms=tuple(stage.samples_ms for stage in stages),
            warmup_runs=stages[0].warmup_runs,
            measured_at="1970-01-01T00:00:00+00:00",
        )
    )


def _copy(bundle: Bundle, folder: Path) -> Bundle:
    import shutil

    shutil.copytree(bundle.path, folder)
    return Bundle.open(folder)


def measure(
    network: Cifar10Network, program: str, sets: dict[str, NDArray[np.uint8]]
) -> tuple[list[Claim], dict[str, Any]]:
    """All ways on all sets, for one program."""
    half = len(network.images) // 2
    labels = network.labels[half : half + IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        bundle = prepare(network, program, Path(folder) / "bundle")
        load: dict[str, Any] = {"program": program}
        full = DynamicClassifier.load(bundle, policy="last", **load)
        limits_ms = full.stage_limits.ms
        # Room for the first two stages and their answer, and not for the third.
        deadline_ms = sum(limits_ms[:2]) + 0.5 * limits_ms[2]
        accurate = DynamicClassifier.load(bundle, policy="accurate", **load)
        dutiful = DynamicClassifier.load(bundle, policy="accurate", deadline_ms=deadline_ms, **load)
        whole = _predict(full, sets["clean"], labels)
        clean = _predict(accurate, sets["clean"], labels)
        period_ms = RELATIVE_RATE * whole.stage_ms_per_image
        a_frame_ms = clean.stage_ms_per_image + SPARE * (
            whole.stage_ms_per_image - clean.stage_ms_per_image
        )
        budget_ms = a_frame_ms * WINDOW_FRAMES
        window_ms = period_ms * WINDOW_FRAMES
        runs: dict[str, dict[str, _Run]] = {}
        for name, images in sets.items():
            clock = _Clock()
            governed = GovernedClassifier(
                DynamicClassifier.load(bundle, policy="accurate", **load),
                tuple(LIMITS),
                budget_ms=budget_ms,
                window_ms=window_ms,
                now_ms=clock,
            )
            with governed:
                runs[name] = {
                    "last exit": _predict(full, images, labels),
                    "accurate": _predict(accurate, images, labels),
                    "with deadline": _predict(dutiful, images, labels),
                    "governed": _predict(
                        governed, images, labels, clock=clock, period_ms=period_ms
                    ),
                }
        for classifier in (full, accurate, dutiful):
            classifier.close()
    _print(program, runs, deadline_ms, budget_ms / WINDOW_FRAMES)
    figures = {
        "stage_limits_ms": limits_ms,
        "deadline_ms": deadline_ms,
        "budget_ms_per_frame": budget_ms / WINDOW_FRAMES,
        "frames_per_window": WINDOW_FRAMES,
        "period_ms": period_ms,
        "exit_shares_certified": {
            policy.name: policy.exit_shares
            for policy in bundle.manifest.policies
            if policy.program == program
        },
        "runs": runs,
    }
    return _claims(program, runs, deadline_ms, budget_ms / WINDOW_FRAMES), figures


def _claims(
    program: str, runs: dict[str, dict[str, _Run]], deadline_ms: float, budget_ms: float
) -> list[Claim]:
    claims = []
    clean = runs["clean"]["accurate"]
    for name, ways in runs.items():
        run = ways["accurate"]
        for text, value in (
            ("mean exit", run.mean_exit),
            ("mean ms over that of clean images", run.mean_ms / clean.mean_ms),
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
    )


if __name__ == "__main__":
    main()
