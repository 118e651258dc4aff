"""The static networks that have no pretrained weights: trained once on CIFAR-10, then kept.

A VGG-16 with batch normalisation and a MobileNetV2 learn from 45,000 training images, from their
labels and from the answers of the pretrained ResNet-56; the other 5,000 say how good they are. Some
epochs on a processor make neither as good as three hundred on an accelerator would. What starts
from these weights is compared with them, and not with published ones.

    .venv/bin/python benchmarks/cifar10_bases.py --data FOLDER --base vgg16_bn

``--data`` holds ``cifar10/train.parquet`` and ``pretrained/resnet56_cifar10.safetensors``. A run
that was killed goes on after the last whole epoch.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save

from offramp._files import write_atomically
from offramp_search.bases import load_base
from offramp_search.data import open_source
from offramp_search.pipeline import static_network
from offramp_search.report import Claim, write_result
from offramp_search.training import Recipe, accuracies, evaluate, train

if TYPE_CHECKING:
    from offramp_search.training import TrainingProgress

RESULTS = Path(__file__).parent / "results"
CACHE = Path(".cache/benchmarks/cifar10_bases")
BASES = ("vgg16_bn", "mobilenet_v2")
TEACHER = "resnet56"
TRAIN_IMAGES = 45_000
_CLASSES, _IMAGE_SHAPE = 10, (32, 32)


def main() -> None:
    """Train, keep the weights, and write how good they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", choices=BASES, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--weights", type=Path, help=f"default: {CACHE}/BASE_cifar10.safetensors")
    parser.add_argument("--result", type=Path, help="default: cifar10_BASE.json beside the others")
    arguments = parser.parse_args()
    kept = arguments.weights or CACHE / f"{arguments.base}_cifar10.safetensors"
    kept.parent.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(
        epochs=arguments.epochs,
        batch_size=64,
        learning_rate=arguments.learning_rate,
        schedule="one_cycle",
        horizontal_flip=True,
        pad_crop=4,
        distill_alpha=0.7,
    )

    data = open_source(str(arguments.data / "cifar10"), folder_cache=kept.parent)
    images = data.read(_IMAGE_SHAPE).train
    # Rows are in a random order.
    held_out = images.take(np.arange(TRAIN_IMAGES, len(images)))
    base = load_base(arguments.base, num_classes=_CLASSES, image_shape=_IMAGE_SHAPE)
    pretrained = load_base(
        TEACHER,
        num_classes=_CLASSES,
        image_shape=_IMAGE_SHAPE,
        weights=arguments.data / "pretrained" / f"{TEACHER}_cifar10.safetensors",
    )
    torch.manual_seed(0)
    network = static_network(base)
    teacher = static_network(pretrained).eval()
    history = train(
        network,
        images.take(np.arange(TRAIN_IMAGES)),
        recipe=recipe,
        teacher=lambda image: teacher(image)[-1],
        checkpoint=kept.with_suffix(".training.safetensors"),
        progress=_say,
    )
    write_atomically(kept, save(base.module.state_dict()))
    (accuracy,) = accuracies(evaluate(network, held_out), held_out.labels)
    (teachers,) = accuracies(evaluate(teacher, held_out), held_out.labels)
    print(f"{arguments.base}: {accuracy:.2%} of {len(held_out)} training images held out")
    write_result(
        arguments.result or RESULTS / f"cifar10_{arguments.base}.json",
        purpose=f"How {arguments.base}, which other benchmarks start from, was trained",
        command=[
            *("cifar10_bases.py", "--data", "FOLDER", "--base", arguments.base),
            *("--epochs", str(arguments.epochs)),
            *("--learning-rate", str(arguments.learning_rate)),
        ],
        claims=[
            Claim(f"accuracy on {len(held_out)} training images held out", accuracy, None, met=True)
        ],
        figures={
            "recipe": asdict(recipe),
            "teacher": TEACHER,
            "teacher_has_seen_the_held_out_images": True,
            "teacher_accuracy": teachers,
            "train_images": TRAIN_IMAGES,
            "held_out_images": len(held_out),
            "accuracy": accuracy,
            "epochs": [asdict(epoch) for epoch in history.epochs],
        },
    )


def _say(now: TrainingProgress) -> None:
    if now.step % 50 == 0:
        print(
            f"step {now.step} of {now.steps}, loss {now.loss:.3f}, {now.exit_accuracies[0]:.1%}, "
            f"{now.images_per_second:.0f} images/s, {now.eta_s:.0f} s to go",
            file=sys.stderr,
            flush=True,
        )


if __name__ == "__main__":
    main()
