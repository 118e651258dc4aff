"""How far exported programs are from the torch network, exit by exit, on CIFAR-10's test images.

Six networks of three stages; ``export_parity_networks.py`` says where their weights come from, and
so does the result. Each is cut from its graph, exported to every target, and every program is run,
on this machine, on test images. Core ML programs are read back from the saved package and computed
with torch, each result rounded to the type the package declares; what only a Mac can show is how
its own engines round and how fast they are. What is measured is kept, so a killed run goes on.

Where plain int8 falls short of the goals on training images that were held out, the network is also
fine-tuned, as ``offramp export --fine-tune`` does it, on training images without labels; both
programs are then in the result, and the goals are claimed of the one that gives more of torch's
labels to the images held out.

    .venv/bin/python benchmarks/export_parity.py --data FOLDER [--networks resnet20 resnet56]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn

from cifar10_bases import CACHE as BASES
from export_parity_networks import NETWORKS, prepare
from offramp._files import write_atomically
from offramp_export import FineTuning, fine_tune
from offramp_export._edges import prepare_stages, run_stages, trace_edges
from offramp_export._run import run_program
from offramp_export.cut import cut
from offramp_export.parity import compare
from offramp_export.targets import parse_target
from offramp_search.data import ImageSet, open_source
from offramp_search.report import Claim, write_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from offramp_export.targets import ConvertedProgram, Target

RESULT = Path(__file__).parent / "results" / "export_parity.json"
CACHE = Path(".cache/benchmarks/export_parity")
TARGETS = (
    *("litert/float32", "litert/int8"),
    *("executorch/float32", "executorch/int8"),
    "coreml/float16",
)
TUNED = ", fine-tuned"
_TRAIN_IMAGES = 20_000
_HELD_OUT_IMAGES = 1000
_CALIBRATION_IMAGES = 200
_LABELS_GOAL, _LOST_GOAL = 0.985, 0.007
_TUNING_IMAGES = {"vgg16_bn": 2000, "mobilenet_v2": 3000, "resnet56": 3000}
_OTHER_TUNING_IMAGES = 6000
_BATCH = 250
_THRESHOLDS = (0.5, 0.7, 0.9)
_TIE = 1e-4  # a signal this close to a threshold, or two logits to each other, may fall either way


@final
@dataclass(frozen=True, slots=True)
class Data:
    """CIFAR-10's first images of both splits.

    Attributes:
        train: What networks may be trained, fitted, calibrated and fine-tuned on.
        held_out: The training images after those.
        test: Of the test split.
    """

    train: ImageSet
    held_out: ImageSet
    test: ImageSet


def load(data: Path, images: int, cache: Path) -> Data:
    """The first training and test images, kept as arrays."""
    every = _TRAIN_IMAGES + _HELD_OUT_IMAGES
    path = cache / f"images-{every}-{images}.npz"
    if not path.exists():
        read = open_source(str(data / "cifar10"), folder_cache=cache).read((32, 32))
        assert read.test is not None
        train = read.train.take(np.arange(every))
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
        train = ImageSet(arrays["train"], arrays["train_labels"])
        return Data(
            train.take(np.arange(_TRAIN_IMAGES)),
            train.take(np.arange(_TRAIN_IMAGES, every)),
            ImageSet(arrays["test"], arrays["test_labels"]),
        )


def measure(
    name: str,
    pretrained: Path,
    bases: Path,
    data: Data,
    targets: tuple[str, ...],
    images: dict[str, int],
    cache: Path,
) -> dict[str, Any]:
    """All figures of one network; what the cache holds is not measured again."""
    weights = cache / f"{name}.safetensors"
    made = prepare(name, pretrained, bases, data.train, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    stages = prepare_stages(cut(made.network, (32, 32), preprocess=made.preprocess))
    bench = _Bench(stages, data, images, cache, f"{name}-{digest}")
    figures: dict[str, Any] = {
        "weights": made.weights,
        "torch_accuracy": _accuracy(bench.reference("test"), data.test.labels),
        "programs": {},
    }
    short = []
    for target in targets:
        figures["programs"][target] = found = bench.measure(target)
        print(_row(name, target, found), flush=True)
        if target.endswith("int8"):
            found["held_out"] = bench.measure(target, split="held_out")
            if not _holds(found["held_out"]):
                short.append(target)
    if short:
        options, count = FineTuning(), _TUNING_IMAGES.get(name, _OTHER_TUNING_IMAGES)
        figures["fine_tuning"] = {"images": count, **asdict(options)}
        bench.fine_tune(count, options)
    for target in short:
        figures["programs"][target + TUNED] = found = bench.measure(target, tuned=True)
        found["held_out"] = bench.measure(target, split="held_out", tuned=True)
        print(_row(name, target + TUNED, found), flush=True)
    return figures


def _holds(found: dict[str, Any]) -> bool:
    return bool(min(found["label_agreement"]) >= _LABELS_GOAL and max(_losses(found)) <= _LOST_GOAL)


@final
class _Bench:
    """The programs of one network, and what is kept of them."""

    def __init__(
        self,
        stages: Sequence[nn.Module],
        data: Data,
        images: dict[str, int],
        cache: Path,
        stem: str,
    ) -> None:
        self._stages = self._tuned = stages
        self._carries = trace_edges(stages, 32, 32).carries
        self._data = data
        self._images = images
        self._cache = cache
        self._stem = stem
        self._tuning = ""
        self._references: dict[str, NDArray[np.float32]] = {}
        self._latest: dict[str, ConvertedProgram] = {}

    def reference(self, split: Literal["test", "held_out"]) -> NDArray[np.float32]:
        """Torch's ``(exits, images, classes)`` logits."""
        if split not in self._references:
            pixels = torch.from_numpy(self._split(split).images)
            batches = [
                [outputs[0].numpy() for outputs in run_stages(self._stages, part.float())]
                for part in torch.split(pixels, _BATCH)
            ]
            self._references[split] = np.stack(
                [np.concatenate(exit) for exit in zip(*batches, strict=True)]
            )
        return self._references[split]

    def _split(self, split: Literal["test", "held_out"]) -> ImageSet:
        return self._data.test if split == "test" else self._data.held_out

    def fine_tune(self, count: int, options: FineTuning) -> None:
        """Train the stages to stand int8, or take what is kept."""
        settings = hashlib.sha256(repr((count, options)).encode()).hexdigest()[:8]
        self._tuning = f"-tuned-{settings}"
        kept = self._cache / f"{self._stem}{self._tuning}.safetensors"
        if kept.exists():
            self._tuned = prepare_stages(self._stages)
            nn.ModuleList(self._tuned).load_state_dict(load_file(kept))
            return
        self._tuned = fine_tune(self._stages, self._data.train.images[-count:], options)
        # The stages share what they read of one network; a file must not.
        tensors = nn.ModuleList(self._tuned).state_dict()
        write_atomically(kept, save({key: value.clone() for key, value in tensors.items()}))

    def measure(
        self, target_name: str, *, split: Literal["test", "held_out"] = "test", tuned: bool = False
    ) -> dict[str, Any]:
        """Figures of one program, against the network as it was before any fine-tuning."""
        count = self._images[target_name.split("/")[0]]
        stem = f"{self._stem}{self._tuning if tuned else ''}-{target_name.replace('/', '-')}"
        path = self._cache / f"{stem}-{split}-{count}.json"
        if not path.exists():
            shown = self._split(split)
            target = parse_target(target_name)
            program = self._program(target, stem, tuned=tuned)
            logits = run_program(target, program, shown.images[:count])
            found = judge(
                target_name,
                logits,
                self.reference(split)[:, : logits.shape[1]],
                shown.labels[: logits.shape[1]],
            )
            found["size_bytes"] = sum(map(len, program.files.values()))
            write_atomically(path, json.dumps(found).encode())
        figures: dict[str, Any] = json.loads(path.read_text())
        return figures

    def _program(self, target: Target, stem: str, *, tuned: bool) -> ConvertedProgram:
        """The latest one is kept: it is run on one split after the other."""
        if stem not in self._latest:
            stages = self._tuned if tuned else self._stages
            calibration = self._data.train.images[:_CALIBRATION_IMAGES]
            self._latest = {stem: target.convert(stages, self._carries, calibration)}
        return self._latest[stem]


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


def _row(name: str, target: str, found: dict[str, Any]) -> str:
    loss = max(_losses(found))
    return (
        f"{name:14} {target:27} {found['images']:6} images  "
        f"difference {max(found['largest_difference']):.1e}  "
        f"labels {min(found['label_agreement']):.2%}  "
        f"exits {found['exit_agreement_away_from_ties']:.2%}  "
        f"accuracy lost {loss:+.2%}  {found['size_bytes'] / 1024:.0f} KiB"
    )


def _losses(found: dict[str, Any]) -> list[float]:
    pairs = zip(found["torch_accuracy"], found["accuracy"], strict=True)
    return [reference - ours for reference, ours in pairs]


def _chosen(programs: dict[str, Any]) -> set[str]:
    """Of a program and its fine-tuned form the one that is better on the images held out."""
    chosen = set(programs)
    for tuned in [name for name in programs if name.endswith(TUNED)]:
        plain = tuned.removesuffix(TUNED)
        after, before = (
            min(programs[name]["held_out"]["label_agreement"]) for name in (tuned, plain)
        )
        chosen.remove(plain if after >= before else tuned)
    return chosen


def claims(name: str, programs: dict[str, Any]) -> list[Claim]:
    """What each program set out to show."""
    made = []
    for target, found in programs.items():
        if target not in _chosen(programs):
            continue
        worst = max(found["largest_difference"])
        labels = min(found["label_agreement"])
        precision = target.split("/")[1]
        if precision == "float32":
            text = f"{name}, {target}: largest logit difference, of the largest logit"
            made.append(Claim(text, worst, 1e-4, worst <= 1e-4))
            same = found["exit_agreement_away_from_ties"]
            text = f"{name}, {target}: share of equal exits away from ties"
            made.append(Claim(text, same, 1.0, same == 1.0))
        elif precision.startswith("int8"):
            text = f"{name}, {target}: equal labels at the worst exit"
            made.append(Claim(text, labels, _LABELS_GOAL, labels >= _LABELS_GOAL))
            lost = max(_losses(found))
            text = f"{name}, {target}: accuracy lost at the worst exit"
            made.append(Claim(text, lost, _LOST_GOAL, lost <= _LOST_GOAL))
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
    parser.add_argument("--bases", type=Path, default=BASES, help="what cifar10_bases.py made")
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
            arguments.bases,
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
