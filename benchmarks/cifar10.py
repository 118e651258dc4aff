"""One early-exit network on CIFAR-10 that several benchmarks share: trained once, then cached.

A pretrained static ResNet-20 becomes a network with four exits at rising depth, all exits
are trained together on a part of the training images, and the network is exported to LiteRT in
float32 and int8. The logits come from the exported programs themselves, on the whole test split.

The pretrained weights have seen all training images, so whatever is calibrated has to be
calibrated on a part of the test split and judged on the rest; that is the caller's to do.

    .venv/bin/python benchmarks/cifar10.py --data DATA_FOLDER [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp._files import write_atomically
from offramp.bundle import Bundle, Provenance
from offramp.profiling import collect_logits
from offramp.runtimes import open_runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp_export.network import MultiStageNetwork
    from offramp_search.data import ImageSet
    from offramp_search.training import TrainingProgress

__all__ = ["CACHE", "LABELS", "PROGRAMS", "Cifar10Network", "cifar10_network"]

CACHE = Path(".cache/benchmarks")
PROGRAMS = ("litert/float32", "litert/int8")
LABELS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_DEPTHS = (0.3, 0.64, 0.8)
_TRAIN_IMAGES = 20_000
_EPOCHS = 6
_BATCH_SIZE = 64
_LEARNING_RATE = 0.05
# The first exit sees 16 channels and can never be good: it must not pull the others down.
_EXIT_WEIGHTS = (0.5, 1.0, 1.0, 1.0)
_CALIBRATION_IMAGES = 300
_VECTOR_IMAGES = 32
_SEED = 0


@final
@dataclass(frozen=True, slots=True, eq=False)
class Cifar10Network:
    """A network with four exits, its programs, and what they say of the test split.

    Attributes:
        bundle: LiteRT float32 and int8 programs of one network, without a policy.
        images: ``(10000, 32, 32, 3)`` uint8, the test split.
        labels: ``(10000,)`` int64.
        logits: Program name -> ``(4, 10000, 10)`` float32, from the program itself.
        weights: The trained weights, which ``network`` reads.
    """

    bundle: Bundle
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    logits: dict[str, NDArray[np.float32]]
    weights: Path

    def network(self) -> MultiStageNetwork:
        """The torch network with the trained weights, in evaluation mode."""
        from offramp_search.weights import load_weights

        network = _build(None)
        load_weights(network, self.weights)
        return network.eval()


def cifar10_network(data: Path, *, cache: Path = CACHE) -> Cifar10Network:
    """Make the network, or take what the cache holds of it.

    Args:
        data: A folder with ``cifar10/train.parquet``, ``cifar10/test.parquet`` and
            ``pretrained/resnet20_cifar10.safetensors``. Not looked at if the cache is complete.
        cache: Everything is kept here as soon as it is made; a run that was killed goes on.
    """
    folder = cache / f"cifar10-resnet20-{_fingerprint()}"
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "network.safetensors"
    if not weights.exists():
        _train(data, folder, weights)
    if not (folder / "bundle").exists():
        _export(data, folder, weights)
    bundle = Bundle.open(folder / "bundle")
    if not (folder / "labels.npy").exists():
        test = _read(data, folder)[1]
        _save(folder / "images.npy", test.images)
        _save(folder / "labels.npy", test.labels)
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
    logits = {}
    for program in PROGRAMS:
        path = folder / f"logits-{program.replace('/', '-')}.npy"
        if not path.exists():
            _say(f"running {program} on {len(images)} test images")
            with open_runtime(bundle, program) as runtime:
                _save(path, collect_logits(runtime, images))
        logits[program] = np.load(path)
    return Cifar10Network(bundle, images, labels, logits, weights)


def _fingerprint() -> str:
    """Other settings make another network, which must not be taken for this one."""
    training = (_TRAIN_IMAGES, _EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _EXIT_WEIGHTS, _SEED)
    settings = repr((_DEPTHS, training, _CALIBRATION_IMAGES))
    return hashlib.sha256(settings.encode()).hexdigest()[:8]


def _build(pretrained: Path | None) -> MultiStageNetwork:
    """The network with four exits, its weights random or those of the static network."""
    import torch

    from offramp_search.bases import load_base
    from offramp_search.spaces import StaticTransform

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(_SEED)
        base = load_base("resnet20", num_classes=10, image_shape=(32, 32), weights=pretrained)
        space = StaticTransform(
            base.module,
            image_shape=(32, 32),
            preprocess=base.preprocess,
            num_stages=len(_DEPTHS) + 1,
        )
        return space.build(space.depth_architecture(_DEPTHS))


def _read(data: Path, folder: Path) -> tuple[ImageSet, ImageSet]:
    from offramp_search.data import open_source

    read = open_source(str(data / "cifar10"), folder_cache=folder).read((32, 32))
    assert read.test is not None
    assert read.labels == LABELS
    return read.train, read.test


def _train(data: Path, folder: Path, weights: Path) -> None:
    from offramp_search.training import Recipe, train
    from offramp_search.weights import save_weights

    train_images, _ = _read(data, folder)
    network = _build(data / "pretrained" / "resnet20_cifar10.safetensors")
    said = time.monotonic()

    def progress(now: TrainingProgress) -> None:
        nonlocal said
        if time.monotonic() - said > 30:
            said = time.monotonic()
            shares = " ".join(f"{share:.1%}" for share in now.exit_accuracies)
            _say(
                f"step {now.step} of {now.steps}, exits right {shares}, "
                f"{now.images_per_second:.0f} images/s, {now.eta_s / 60:.0f} minutes to go"
            )

    # Rows are in a random order, so the first ones are a sample.
    train(
        network,
        train_images.take(np.arange(_TRAIN_IMAGES)),
        recipe=Recipe(
            epochs=_EPOCHS,
            batch_size=_BATCH_SIZE,
            learning_rate=_LEARNING_RATE,
            exit_weights=_EXIT_WEIGHTS,
            horizontal_flip=True,
            pad_crop=4,
        ),
        checkpoint=folder / "training.safetensors",
        seed=_SEED,
        progress=progress,
    )
    save_weights(network, weights)


def _export(data: Path, folder: Path, weights: Path) -> None:
    from offramp_export import export
    from offramp_export.targets import LiteRT
    from offramp_search.weights import load_weights

    train_images, _ = _read(data, folder)
    network = _build(None)
    load_weights(network, weights)
    _say("exporting")
    vectors = slice(_TRAIN_IMAGES, _TRAIN_IMAGES + _VECTOR_IMAGES)
    export(
        list(network.eval().stages),
        train_images.images[vectors],
        [LiteRT("float32"), LiteRT("int8")],
        path=folder / "bundle",
        labels=LABELS,
        calibration_images=train_images.images[:_CALIBRATION_IMAGES],
        provenance=Provenance(created_by="benchmarks/cifar10.py", base="resnet20", seed=_SEED),
    )


def _save(path: Path, array: NDArray[Any]) -> None:
    content = io.BytesIO()
    np.save(content, array)
    write_atomically(path, content.getvalue())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Make the network and say how good its exits are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=CACHE)
    arguments = parser.parse_args()
    made = cifar10_network(arguments.data, cache=arguments.cache)
    for program, logits in made.logits.items():
        right = (logits.argmax(axis=-1) == made.labels).mean(axis=-1)
        print(program, " ".join(f"{share:.2%}" for share in right))


if __name__ == "__main__":
    main()
