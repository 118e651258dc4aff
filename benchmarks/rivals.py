"""Offramp beside earlyon, the pip-installable early-exit toolkit for torch.

The same trained ResNet-20 with four exits (`cifar10.py`), the same CIFAR-10 images, batch 1, one
thread, really stopping early, both in one run. Half of the test split calibrates, the other half
judges. Both are asked for a drop of accuracy of at most one point below the last exit. earlyon
keeps it on the calibration images and promises nothing for others; Offramp promises it for future
images with 95 % confidence. How often each breaks it is counted over resampled halves, on cached
logits.

earlyon runs in its own environment, where `rivals_earlyon.py` says how. It is measured as its
first example uses it (thresholds on its default grid, no temperatures, eager modules, as many
threads as torch takes), and in better settings: temperatures fitted per exit on images of their
own, its default grid and a fine one, one thread, eager stages and frozen TorchScript ones. Of each
figure its best is compared: the fastest way for latency, the smallest for memory, the quickest for
the cold start.

`prepare` writes `rivals_promise.json`, which holds no times; `cold` times process starts, and
`measure` both sides on the same images, on a quiet machine, and writes `rivals.json`.

    .venv/bin/python benchmarks/rivals.py prepare  --cache FOLDER --rival-python PYTHON
    .venv/bin/python benchmarks/rivals.py cold     --cache FOLDER --rival-python PYTHON
    .venv/bin/python benchmarks/rivals.py measure  --cache FOLDER --rival-python PYTHON
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

__all__ = ["main"]

RESULT = Path(__file__).parent / "results" / "rivals.json"
LIMIT, CONFIDENCE = 0.01, 0.95
SPLITS, HALF = 100, 5000
LIVE_IMAGES, PER_TURN = 1500, 50
COLD_STARTS = 5  # after one that is not counted, which finds nothing in memory
FIT_SHARE = 0.2
FINE_GRID = [round(1 - 0.01 * step, 2) for step in range(1, 51)]
# Its calibrator takes seconds for each.
RIVAL_SPLITS = {"first example": 30, "default grid": 30, "fine grid": 10}
RIVAL_CALIBRATIONS: dict[str, dict[str, Any]] = {
    "first example": {"grid": None, "share": 0.0},
    "default grid": {"grid": None, "share": FIT_SHARE},
    "fine grid": {"grid": FINE_GRID, "share": FIT_SHARE},
}
# Calibration, stages, and threads of torch; 0 leaves them to torch.
RIVAL_WAYS = (
    ("first example", "eager", 0),
    ("default grid", "eager", 1),
    ("default grid", "frozen", 1),
    ("fine grid", "frozen", 1),
)
PROGRAMS = ("litert/float32", "litert/int8")


class Worker:
    """A process that answers commands, one JSON object a line."""

    def __init__(self, *words: object) -> None:
        self.process = subprocess.Popen(
            list(map(str, words)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **command: Any) -> Any:
        self.tell(**command)
        return self.hear()

    def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def prepare(cache: Path, rival: str) -> None:
    """Everything that needs no quiet: files for the other side, and the resampled calibrations."""
    from cifar10 import cifar10_network
    from offramp.calibration import Promises, calibrate

    made = cifar10_network(Path(), cache=cache)
    folder = _folder(cache)
    if not (folder / "logits.npy").exists():
        _export_for_torch(made, folder)
    logits = np.load(folder / "logits.npy")
    generator = np.random.default_rng(0)
    orders = np.stack([generator.permutation(len(made.labels)) for _ in range(SPLITS)])
    # Of the first split's judged half: images that calibrated neither side's policy.
    live = orders[0, HALF : HALF + LIVE_IMAGES]
    arrays: dict[str, Any] = {"labels": made.labels, "orders": orders[:, :HALF]}
    arrays |= {"images": made.images[live], "live_labels": made.labels[live]}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    figures: dict[str, Any] = {}
    policies: dict[str, Any] = {}
    for program in PROGRAMS:
        found = []
        for seed, order in enumerate(orders):
            part = order[:HALF]
            report = calibrate(
                made.logits[program][:, part],
                made.labels[part],
                program=program,
                promises=Promises(accuracy_drop=LIMIT, confidence=CONFIDENCE),
                seed=seed,
            )
            assert report.policy is not None
            found.append(report.policy)
        print(f"{program}: {len(found)} calibrations", file=sys.stderr, flush=True)
        policies[program] = json.loads(msgspec.json.encode(found[0]))
        routed = [
            (list(one.thresholds), list(one.enabled), list(one.temperatures)) for one in found
        ]
        figures[f"offramp {program}"] = _judge(made.logits[program], made.labels, orders, routed)
    workers = {}
    for name, settings in RIVAL_CALIBRATIONS.items():
        np.save(folder / f"{name}.npy", orders[: RIVAL_SPLITS[name], :HALF])
        worker = Worker(rival, Path(__file__).with_name("rivals_earlyon.py"), folder)
        worker.tell(do="calibrate", orders=f"{name}.npy", drop=LIMIT, **settings)
        workers[name] = worker
    for name, worker in workers.items():
        found = worker.hear()
        worker.close()
        policies[f"earlyon {name}"] = found[0]
        routed = [
            (
                [*one["thresholds"], 0.0],
                [*one["enabled"], True],
                [*(one["temperatures"][f"e{place}"] for place in range(3)), 1.0],
            )
            for one in found
        ]
        figures[f"earlyon {name}"] = _judge(logits, made.labels, orders[: len(found)], routed)
    frozen = Worker(rival, Path(__file__).with_name("rivals_earlyon.py"), folder)
    frozen.ask(do="freeze")
    frozen.close()
    prepared = {"figures": figures, "policies": policies}
    (folder / "prepared.json").write_text(json.dumps(prepared))
    (folder / "bundle.txt").write_text(str(made.bundle.path.resolve()))
    promise(cache)
    for name, figure in figures.items():
        print(name, {key: value for key, value in figure.items() if key != "drops"})


def promise(cache: Path) -> None:
    """Write how often each side breaks what it was asked for; no timing, so no quiet is needed."""
    from offramp_search.report import Claim, write_result

    prepared = json.loads((_folder(cache) / "prepared.json").read_text())
    claims = []
    for name, figure in prepared["figures"].items():
        text = (
            f"share of {len(figure['drops'])} splits whose judged half drops more than 1 %: {name}"
        )
        if name.startswith("offramp"):
            claims.append(Claim.at_most(text, figure["broken_share"], 1 - CONFIDENCE))
        else:
            claims.append(Claim(text, figure["broken_share"], None, True))
    write_result(
        RESULT.with_name("rivals_promise.json"),
        purpose="How often a drop of at most one point is broken, beside earlyon",
        claims=claims,
        figures={"limit": LIMIT, "confidence": CONFIDENCE, **prepared},
        command=["rivals.py", "prepare", "--cache", "FOLDER", "--rival-python", "PYTHON"],
    )


def _export_for_torch(made: Any, folder: Path) -> None:
    """The trained stages as programs that torch reads alone, and their logits."""
    import torch

    network, carry = made.network(), (torch.zeros(1, 32, 32, 3),)
    torch_logits: list[list[Any]] = [[] for _ in network.stages]
    for place, stage in enumerate(network.stages):
        torch.export.save(torch.export.export(stage, carry), folder / f"stage_{place}.pt2")
        with torch.no_grad():
            carry = tuple(stage(*carry)[1:])
    with torch.no_grad():
        for start in range(0, len(made.images), 500):
            parts = (torch.from_numpy(made.images[start : start + 500]).float(),)
            for place, stage in enumerate(network.stages):
                logits, *rest = stage(*parts)
                torch_logits[place].append(logits.numpy())
                parts = tuple(rest)
    np.save(folder / "logits.npy", np.stack([np.concatenate(part) for part in torch_logits]))


def _judge(logits: Any, labels: Any, orders: Any, policies: Any) -> dict[str, Any]:
    """Drops on the other half under each policy, and where the images left."""
    drops, shares = [], []
    last = logits[-1].argmax(-1) == labels
    for order, (thresholds, enabled, temperatures) in zip(orders, policies, strict=True):
        part = order[HALF:]
        exits = np.full(len(part), len(logits) - 1)
        for place in range(len(logits) - 2, -1, -1):
            if not enabled[place]:
                continue
            scaled = logits[place][part].astype(np.float64) / temperatures[place]
            odds = np.exp(scaled - scaled.max(-1, keepdims=True))
            exits[(odds.max(-1) / odds.sum(-1)) >= thresholds[place]] = place
        right = logits[exits, part].argmax(-1) == labels[part]
        drops.append(float(last[part].mean() - right.mean()))
        shares.append(np.bincount(exits, minlength=len(logits)) / len(part))
    return {
        "broken_share": float(np.mean([drop > LIMIT for drop in drops])),
        "drop_mean": float(np.mean(drops)),
        "drop_p95": float(np.quantile(drops, 0.95)),
        "exit_shares": np.mean(shares, axis=0).tolist(),
        "drops": drops,
    }


def ours(folder: Path, bundle: str) -> None:
    """The worker of this side."""
    images: Any = np.load(folder / "images.npy", mmap_mode="r")
    classifier: Any = None
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "load":
            from offramp import DynamicClassifier
            from offramp.bundle import Policy

            policy = command["policy"]
            classifier = DynamicClassifier.load(
                bundle,
                program=command["program"],
                policy=msgspec.convert(policy, Policy) if policy else "last",
            )
            command |= {"start": 0, "end": 1}
        times, classes, exits = [], [], []
        for image in np.array(images[command["start"] : command["end"]]):
            began = time.perf_counter_ns()
            answer = classifier.predict(image)
            times.append((time.perf_counter_ns() - began) / 1e6)
            classes.append(answer.index)
            exits.append(answer.exit)
        status = Path("/proc/self/status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0]) / 1024
        told = {
            "ms": times,
            "classes": classes,
            "exits": exits,
            "resident_mb": resident,
        }
        print(json.dumps(told), flush=True)


def _sides(folder: Path, rival: str) -> dict[str, tuple[list[object], dict[str, Any]]]:
    """Name -> the words that start its process, and what it is told to load."""
    policies = json.loads((folder / "prepared.json").read_text())["policies"]
    bundle = (folder / "bundle.txt").read_text()
    here = Path(__file__)
    sides: dict[str, tuple[list[object], dict[str, Any]]] = {}
    for program in PROGRAMS:
        words: list[object] = [sys.executable, here, "ours", folder, bundle]
        for name, policy in (("offramp", policies[program]), ("offramp, all stages", None)):
            sides[f"{name} {program}"] = (words, {"program": program, "policy": policy})
    words = [rival, here.with_name("rivals_earlyon.py"), folder]
    for calibration, style, threads in RIVAL_WAYS:
        policy = policies[f"earlyon {calibration}"]
        load = {"style": style, "policy": policy, "threads": threads}
        sides[f"earlyon {calibration}, {style}"] = (words, load)
    for style in ("eager", "frozen"):
        load = {"style": style, "policy": None, "threads": 1}
        sides[f"earlyon, all stages, {style}"] = (words, load)
    return sides


def cold(cache: Path, rival: str) -> None:
    """Time from the start of a process to its first answer, both sides in turns."""
    folder = _folder(cache)
    sides = _sides(folder, rival)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(COLD_STARTS + 1):
        for name, (words, load) in sides.items():
            began = time.perf_counter()
            worker = Worker(*words)
            worker.ask(do="load", **load)
            if turn:
                seconds[name].append(time.perf_counter() - began)
            worker.close()
    (folder / "cold.json").write_text(json.dumps(seconds))
    for name, taken in seconds.items():
        print(f"{name:44}{np.median(taken):8.2f} s")


def measure(cache: Path, rival: str, result: Path) -> None:
    """Both sides on the same images, in turns of fifty, in one run."""
    from offramp_search.report import Claim, write_result

    folder = _folder(cache)
    prepared = json.loads((folder / "prepared.json").read_text())
    cold_s = json.loads((folder / "cold.json").read_text())
    sides = _sides(folder, rival)
    workers = {name: Worker(*words) for name, (words, _) in sides.items()}
    loaded = {name: workers[name].ask(do="load", **load) for name, (_, load) in sides.items()}
    runs: dict[str, dict[str, list[Any]]] = {
        name: {"ms": [], "classes": [], "exits": []} for name in sides
    }
    for start in range(0, LIVE_IMAGES, PER_TURN):
        for name, worker in workers.items():
            told = worker.ask(do="run", start=start, end=start + PER_TURN)
            for key in runs[name]:
                runs[name][key] += told[key]
    for worker in workers.values():
        worker.close()
    figures: dict[str, Any] = {}
    for name, run in runs.items():
        times = np.array(run["ms"])
        right = np.array(run["classes"]) == np.load(folder / "live_labels.npy")
        figures[name] = {
            "accuracy": float(right.mean()),
            "mean_ms": float(times.mean()),
            "p50_ms": float(np.quantile(times, 0.5)),
            "p90_ms": float(np.quantile(times, 0.9)),
            "p99_ms": float(np.quantile(times, 0.99)),
            "exit_counts": np.unique(run["exits"], return_counts=True)[1].tolist(),
            "resident_mb": loaded[name]["resident_mb"],
            "cold_start_s": {
                "median": float(np.median(cold_s[name])),
                "p90": float(np.quantile(cold_s[name], 0.9)),
                "samples": cold_s[name],
            },
            "samples_ms": run["ms"],
        }
    routed = [f"earlyon {calibration}, {style}" for calibration, style, _ in RIVAL_WAYS]
    best = min(routed, key=lambda name: figures[name]["mean_ms"])
    smallest_mb = min(figures[name]["resident_mb"] for name in routed)
    quickest_s = min(figures[name]["cold_start_s"]["median"] for name in routed)
    print(f"{'':44}{'accuracy':>9}{'mean':>8}{'p50':>8}{'p90':>8}{'p99':>8}{'MB':>7}{'cold s':>8}")
    for name, one in figures.items():
        print(
            f"{name:44}{one['accuracy']:9.2%}{one['mean_ms']:8.3f}{one['p50_ms']:8.3f}"
            f"{one['p90_ms']:8.3f}{one['p99_ms']:8.3f}{one['resident_mb']:7.0f}"
            f"{one['cold_start_s']['median']:8.2f}"
        )
    claims = []
    for program in PROGRAMS:
        mine, theirs = figures[f"offramp {program}"], figures[best]
        name = f"{program}, over the fastest earlyon"
        for word, key in (("mean", "mean_ms"), ("median", "p50_ms"), ("p99", "p99_ms")):
            claims.append(
                Claim.at_most(f"ratio of {word} latency, {name}", mine[key] / theirs[key], 1.0)
            )
        claims += [
            Claim.at_most(
                f"ratio of resident memory, {program}, over the smallest earlyon",
                mine["resident_mb"] / smallest_mb,
                1.0,
            ),
            Claim.at_most(
                f"ratio of cold start, {program}, over the quickest earlyon",
                mine["cold_start_s"]["median"] / quickest_s,
                1.0,
            ),
            Claim(
                f"accuracy minus the fastest earlyon's, {program}, in points",
                100 * (mine["accuracy"] - theirs["accuracy"]),
                None,
                True,
            ),
            Claim.at_most(
                f"share of {SPLITS} splits whose judged half drops more than promised, {program}",
                prepared["figures"][f"offramp {program}"]["broken_share"],
                1 - CONFIDENCE,
            ),
        ]
    claims += [
        Claim(
            f"share of {RIVAL_SPLITS[name]} splits whose judged half drops more than asked for, "
            f"earlyon {name}",
            prepared["figures"][f"earlyon {name}"]["broken_share"],
            None,
            True,
        )
        for name in RIVAL_SPLITS
    ]
    versions = subprocess.run(
        [
            rival,
            "-c",
            "import earlyon, torch; print(earlyon.__version__, torch.__version__)",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    write_result(
        result,
        purpose="Offramp beside earlyon on the same trained network and images",
        claims=claims,
        figures={
            "live": figures,
            "resampled": prepared["figures"],
            "policies": prepared["policies"],
            "fastest_earlyon": best,
            "rival_versions": dict(zip(("earlyon", "torch"), versions, strict=True)),
        },
        command=[
            "rivals.py",
            "measure",
            "--cache",
            "FOLDER",
            "--rival-python",
            "PYTHON",
        ],
    )


def _folder(cache: Path) -> Path:
    folder = cache / "rivals"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> None:
    """Prepare, then measure; they are apart so that only the latter needs a quiet machine."""
    if sys.argv[1:2] == ["ours"]:
        ours(Path(sys.argv[2]), sys.argv[3])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("prepare", "promise", "cold", "measure"))
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rival-python", required=True)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.step == "promise":
        promise(arguments.cache)
    elif arguments.step == "prepare":
        prepare(arguments.cache, arguments.rival_python)
    elif arguments.step == "cold":
        cold(arguments.cache, arguments.rival_python)
    else:
        measure(arguments.cache, arguments.rival_python, arguments.result)


if __name__ == "__main__":
    main()
