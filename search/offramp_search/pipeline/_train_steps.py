"""The three trainings of a run."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from offramp_search.bases import load_base
from offramp_search.data import take_stratified
from offramp_search.evaluators import fit_all_exits, recalibrate
from offramp_search.pipeline._supernet import (
    LastExit,
    RandomSelection,
    first_stage_alone,
    static_network,
)
from offramp_search.training import train
from offramp_search.weights import load_weights, save_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn

    from offramp_export.network import MultiStageNetwork
    from offramp_search.bases import Base
    from offramp_search.objectives import Examples
    from offramp_search.pipeline._context import Context
    from offramp_search.spaces import Architecture, Space, StaticTransform
    from offramp_search.spaces.static_transform import MaskedNetwork
    from offramp_search.training import Recipe, TrainingProgress

__all__ = [
    "load_static",
    "smaller_name",
    "train_base",
    "train_final",
    "train_new",
    "train_once",
    "train_shared",
    "train_smaller",
    "warn_of_slow_hardware",
]

_FITTING_IMAGES, _HEADED_IMAGES = 5_000, 20_000
"""To fit the exits of the network that is found to, before it is trained; heads learn from more."""


def warn_of_slow_hardware(context: Context) -> None:
    """Say that an arithmetic was asked for which this machine does not have."""
    hardware = context.settings.hardware
    if hardware.is_slow:
        context.reporter.say(
            f"training in {hardware.precision}, which this machine emulates: 20 to 30 times slower "
            "than 32-true"
        )


def load_static(context: Context) -> Base:
    """The static network: with the weights the user gave, or untrained."""
    settings = context.settings
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(settings.seed)
        return load_base(
            settings.base,
            num_classes=len(context.splits.labels),
            image_shape=context.image_shape,
            weights=None if settings.base_weights is None else Path(settings.base_weights),
        )


def train_base(context: Context, base: Base) -> MultiStageNetwork:
    """The static network as one stage, trained in place unless it came with weights."""
    network = static_network(base)
    if context.settings.base_weights is None:
        train_once(context, "base", network, context.settings.base_recipe)
    return network.eval()


def train_shared(
    context: Context, space: StaticTransform, teacher: MultiStageNetwork
) -> MaskedNetwork:
    """One network that holds all architectures, trained on a random one at each step."""
    masked = space.masked()
    train_once(
        context,
        "shared",
        masked,
        context.settings.shared_recipe,
        teacher,
        before_step=RandomSelection(space, masked),
    )
    return masked.eval()


def train_final(
    context: Context,
    space: StaticTransform,
    masked: MaskedNetwork,
    architecture: Architecture,
    teacher: MultiStageNetwork,
) -> MultiStageNetwork:
    """The network that was found, from the shared weights on."""
    network = _inherit(context, "network", space, masked, architecture)
    train_once(context, "network", network, context.settings.final_recipe, teacher)
    return network.eval()


def train_new(
    context: Context, space: Space, architecture: Architecture, teacher: MultiStageNetwork
) -> MultiStageNetwork:
    """The network that was found, from new weights on."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(context.settings.seed)
        network = space.build(architecture)
    train_once(context, "network", network, context.settings.base_recipe, teacher)
    return network.eval()


def train_smaller(
    context: Context,
    space: StaticTransform,
    masked: MaskedNetwork,
    share: float,
    teacher: MultiStageNetwork,
) -> MultiStageNetwork:
    """A static network with a share of the base's channels, by the recipe of the one found.

    It is the first stage of a network of full depth, and starts from the shared weights too. With
    all channels it is the base, and starts from the base's weights: what the recipe is worth alone.
    """
    name = smaller_name(share)
    if share == 1:
        network = deepcopy(teacher)
    else:
        whole = _inherit(context, name, space, masked, space.narrow_architecture(share))
        network = first_stage_alone(whole)
    train_once(context, name, network, context.settings.final_recipe, teacher)
    return network.eval()


def smaller_name(share: float) -> str:
    """What files of a smaller static network are called."""
    return f"static-{100 * share:.0f}-percent"


def _inherit(
    context: Context,
    name: str,
    space: StaticTransform,
    masked: MaskedNetwork,
    architecture: Architecture,
) -> MultiStageNetwork:
    """Build a network with the shared weights, and with exits that fit its features.

    An exit that hangs in the middle of the network was hardly trained with the shared weights, and
    would spend the training to come on catching up. If it has a head, that is trained first, with
    all layers before it as they are.
    """
    if _weights_path(context, name).exists():
        return space.build(architecture)  # trained already
    masked.select(architecture)
    train, seed = context.splits.train, context.settings.seed
    images = take_stratified(train, _FITTING_IMAGES, seed=seed)
    recalibrate(masked, images.images)
    if masked.heads():
        images = take_stratified(train, _HEADED_IMAGES, seed=seed)
    generator = np.random.default_rng([seed, 5])
    fit_all_exits(masked, images, generator=generator).give_to(masked)
    return space.build(architecture, weights=masked)


def _weights_path(context: Context, name: str) -> Path:
    return context.folder / f"{name}.safetensors"


def train_once(
    context: Context,
    name: str,
    network: nn.Module,
    recipe: Recipe,
    teacher: MultiStageNetwork | None = None,
    *,
    before_step: Callable[[int, np.random.Generator], None] | None = None,
    transform: Callable[[NDArray[np.float32], np.random.Generator], Examples] | None = None,
) -> None:
    """Train a network, unless its weights are there already; goes on where it was left."""
    path = _weights_path(context, name)
    if path.exists():
        load_weights(network, path)
        context.reporter.say(f"{name}: weights found in {path.name}")
        return
    checkpoint = context.folder / f"{name}.checkpoint.safetensors"
    with context.reporter.progress(f"Training {name}") as report:

        def show(progress: TrainingProgress) -> None:
            report(progress.step, progress.steps)

        history = train(
            network,
            context.splits.train,
            recipe=recipe,
            teacher=None if teacher is None else LastExit(teacher),
            checkpoint=checkpoint,
            seed=context.settings.seed,
            progress=show,
            before_step=before_step,
            transform=transform,
            hardware=context.settings.hardware,
        )
    save_weights(network, path)
    checkpoint.unlink(missing_ok=True)
    last = history.epochs[-1]
    shares = ", ".join(f"{share:.1%}" for share in last.exit_accuracies)
    context.reporter.say(
        f"{name}: trained at {last.images_per_second:.0f} images/s, training accuracy {shares}"
    )
