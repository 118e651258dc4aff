"""How far exported programs are from the torch network, exit by exit, on CIFAR-10's test images.

Six networks of three stages; ``export_parity_networks.py`` says where their weights come from, and
so does the result. Each is cut from its graph, exported to every target, and every program is run,
on this machine, on test images. Core ML programs are read back from the saved package and computed
with torch, each result rounded to the type the package declares; what only a Mac can show is how
its own engines round and how fast they are. What is measured is kept, so a killed run goes on.

    .venv/bin/python benchmarks/export_parity.py --data FOLDER [--networks resnet20 resnet56]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from export_parity_networks import NETWORKS, prepare
from offramp._files import write_atomically
from offramp_export._edges import prepare_stages, trace_edges
from offramp_export._run import run_program
from offramp_export.cut import cut
from offramp_export.parity import compare
from offramp_export.targets import parse_target
from offramp_search.data import ImageSet, open_source
from offramp_search.report import Claim, write_result

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

RESULT = Path(__file__).parent / "results" / "export_parity.json"
CACHE = Path(".cache/benchmarks/export_parity")
TARGETS = ("litert/float32", "litert/int8", "executorch/float32", "coreml/float16")
_TRAIN_IMAGES = 20_000
_CALIBRATION_IMAGES = 200
_BATCH = 250
_THRESHOLDS = (0.5, 0.7, 0.9)
_TIE = 1e-4  # a signal this close to a threshold, or two logits to each other, may fall either way


@final
@dataclass(frozen=True, slots=True)
class Data:
    """CIFAR-10's first images of both splits."""

    train: ImageSet
    test: ImageSet


def load(data: Path, images: int, cache: Path) -> Data:
    """The first training and test images, kept as arrays."""
    path = cache / f"images-{_TRAIN_IMAGES}-{images}.npz"
    if not path.exists():
        read = open_source(str(data / "cifar10"), folder_cache=cache).read((32, 32))
        assert read.test is not None
        train = read.train.take(np.arange(_TRAIN_IMAGES))
        content = io.BytesIO()
        np.savez(
            content,
            train=train.images,
            train_labels=train.labels,
            test=read.test.images[:images],
            test_labels=read.test.labels[:images],
        )
        write_atomically(path, content.getvalue())
    with np.load(path) as arrays:
        return Data(
            ImageSet(arrays["train"], arrays["train_labels"]),
            ImageSet(arrays["test"], arrays["test_labels"]),
        )


def measure(
    name: str,
    pretrained: Path,
    data: _Data,
    targets: tuple[str, ...],
    images: dict[str, int],
    cache: Path,
) -> dict[str, Any]:
    """All figures of one network; what the cache holds is not measured again."""
    weights = cache / f"{name}.safetensors"
    made = prepare(
        name, pretrained, _pixels(data.train), torch.from_numpy(data.train_labels), weights
    )
    network = made.network
    stages = prepare_stages(cut(network, (32, 32), preprocess=made.preprocess))
    edges = trace_edges(stages, 32, 32)
    with torch.no_grad():
        parts = torch.split(_pixels(data.test), _BATCH)
        batches = [network(made.preprocess(part)) for part in parts]
    reference = np.stack([torch.cat(list(exit)).numpy() for exit in zip(*batches, strict=True)])
    labels = data.test_labels
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    figures: dict[str, Any] = {
        "weights": made.weights,
        "torch_accuracy": _accuracy(reference, labels),
        "programs": {},
    }
    for target_name in targets:
        count = images[target_name.split("/")[0]]
        path = cache / f"{name}-{digest}-{target_name.replace('/', '-')}-{count}.json"
        if not path.exists():
            target = parse_target(target_name)
            program = target.convert(stages, edges.carries, data.train[:_CALIBRATION_IMAGES])
            logits = run_program(target, program, data.test[:count])
            found = judge(target_name, logits, reference[:, :count], labels[:count])
            found["size_bytes"] = sum(map(len, program.files.values()))
            write_atomically(path, json.dumps(found).encode())
        figures["programs"][target_name] = found = json.loads(path.read_text())
        print(_row(name, target_name, found), flush=True)
    return figures


def judge(
    program: str, logits: NDArray[np.float32], reference: NDArray[np.float32], labels: NDArray[Any]
) -> dict[str, Any]:
    """Compare logits with torch's: exit by exit, and where images leave."""
    parity = compare(
        program, logits, reference, tolerance=float("inf"), labels=labels.astype(np.int64)
    )
    ours, theirs = _signals(logits), _signals(reference)
    agreeing = []
    for threshold in _THRESHOLDS:
        tied = (np.abs(theirs[:-1] - threshold) < _TIE).any(axis=0)
        same = _exits(ours, threshold) == _exits(theirs, threshold)
        agreeing.append(float(same[~tied].mean()))
    return {
        "images": int(reference.shape[1]),
        "largest_difference": [exit.difference for exit in parity.exits],
        "mean_difference": [exit.mean_difference for exit in parity.exits],
        "label_agreement": [exit.label_agreement for exit in parity.exits],
        "exit_agreement_away_from_ties": min(agreeing),
        "accuracy": [exit.accuracy for exit in parity.exits],
        "torch_accuracy": [exit.torch_accuracy for exit in parity.exits],
    }


def _signals(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    best: NDArray[np.float64] = exponents.max(axis=-1) / exponents.sum(axis=-1)
    return best


def _exits(signals: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    sure = signals >= threshold
    sure[-1] = True
    first: NDArray[np.int64] = sure.argmax(axis=0)
    return first


def _accuracy(logits: NDArray[np.float32], labels: NDArray[Any]) -> list[float]:
    answers = logits.argmax(axis=-1)
    shares: list[float] = (answers == labels[: answers.shape[1]]).mean(axis=-1).tolist()
    return shares


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.astype(np.float32))


def _row(name: str, target: str, found: dict[str, Any]) -> str:
    loss = max(_losses(found))
    return (
        f"{name:9} {target:21} {found['images']:6} images  "
        f"difference {max(found['largest_difference']):.1e}  "
        f"labels {min(found['label_agreement']):.2%}  "
        f"exits {found['exit_agreement_away_from_ties']:.2%}  "
        f"accuracy lost {loss:+.2%}  {found['size_bytes'] / 1024:.0f} KiB"
    )


def _losses(found: dict[str, Any]) -> list[float]:
    pairs = zip(found["torch_accuracy"], found["accuracy"], strict=True)
    return [reference - ours for reference, ours in pairs]


def claims(name: str, programs: dict[str, Any]) -> list[Claim]:
    """What each program set out to show."""
    made = []
    for target, found in programs.items():
        worst = max(found["largest_difference"])
        labels = min(found["label_agreement"])
        precision = target.split("/")[1]
        if precision == "float32":
            text = f"{name}, {target}: largest logit difference, of the largest logit"
            made.append(Claim(text, worst, 1e-4, worst <= 1e-4))
            same = found["exit_agreement_away_from_ties"]
            text = f"{name}, {target}: share of equal exits away from ties"
            made.append(Claim(text, same, 1.0, same == 1.0))
        elif precision == "int8":
            text = f"{name}, {target}: equal labels at the worst exit"
            made.append(Claim(text, labels, 0.985, labels >= 0.985))
            lost = max(_losses(found))
            text = f"{name}, {target}: accuracy lost at the worst exit"
            made.append(Claim(text, lost, 0.007, lost <= 0.007))
        else:
            goal = 0.995 if target == "coreml/float16" else None
            text = f"{name}, {target}: equal labels at the worst exit"
            made.append(Claim(text, labels, goal, goal is None or labels >= goal))
    return made


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--coreml-images", type=int, default=200)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    images = {
        "litert": arguments.images,
        "executorch": arguments.images,
        "coreml": min(arguments.coreml_images, arguments.images),
    }
    data = load(arguments.data, arguments.images, arguments.cache)
    figures: dict[str, Any] = {}
    made: list[Claim] = []
    for name in arguments.networks:
        figures[name] = measure(
            name,
            arguments.data / "pretrained",
            data,
            tuple(arguments.targets),
            images,
            arguments.cache,
        )
        made += claims(name, figures[name]["programs"])
        write_result(
            arguments.result,
            purpose="How far exported programs are from the torch network, exit by exit.",
            figures=figures,
            claims=made,
        )


if __name__ == "__main__":
    main()
