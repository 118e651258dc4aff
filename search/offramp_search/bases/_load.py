"""Bases by name, and their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file

from offramp.errors import DataError
from offramp_export.network import Preprocess
from offramp_search.bases._base import Base
from offramp_search.bases._external import from_factory, from_timm
from offramp_search.bases._mobilenet import MobileNetV2
from offramp_search.bases._resnet import CifarResNet
from offramp_search.bases._vgg import SMALL, VGG16, Vgg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

__all__ = ["BASES", "load_base"]

_FACTORIES: Mapping[str, Callable[[int, tuple[int, int]], nn.Module]] = {
    "resnet20": lambda classes, shape: CifarResNet(3, classes),
    "resnet32": lambda classes, shape: CifarResNet(5, classes),
    "resnet44": lambda classes, shape: CifarResNet(7, classes),
    "resnet56": lambda classes, shape: CifarResNet(9, classes),
    "resnet110": lambda classes, shape: CifarResNet(18, classes),
    "vgg16_bn": lambda classes, shape: Vgg(VGG16, classes),
    "vgg_small": lambda classes, shape: Vgg(SMALL, classes),
    "mobilenet_v2": lambda classes, shape: MobileNetV2(classes, small_images=max(shape) <= 64),
}

BASES: tuple[str, ...] = tuple(_FACTORIES)
"""Names that need no package or module of the user's."""


def load_base(
    name: str, *, num_classes: int, image_shape: tuple[int, int], weights: Path | None = None
) -> Base:
    """Make a base network, by default with random weights.

    Args:
        name: One of :data:`BASES`, ``module:factory`` or ``timm:NAME``.
        num_classes: Classes to tell apart.
        image_shape: Height and width of the images.
        weights: A ``.safetensors`` file with exactly the network's tensors.

    Raises:
        DataError: There is no such base, or the weights do not fit it.
        MissingExtraError: timm is asked for and not installed.
    """
    if name in _FACTORIES:
        base = Base(name, _FACTORIES[name](num_classes, image_shape), Preprocess())
    elif name.startswith("timm:"):
        base = from_timm(name, num_classes)
    elif ":" in name:
        base = from_factory(name, num_classes)
    else:
        raise DataError(
            f"There is no base {name!r}; give one of {', '.join(BASES)}, module:factory or "
            "timm:NAME."
        )
    if weights is not None:
        _load(base, weights)
    return base


def _load(base: Base, path: Path) -> None:
    if path.suffix != ".safetensors":
        raise DataError(f"Weights must be a .safetensors file, got {path}.")
    try:
        state: dict[str, Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise DataError(f"There are no weights at {path}.") from error
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}.") from error
    own = base.module.state_dict()
    # Files made before torch counted batches do not have these, and inference never reads them.
    state |= {
        key: value
        for key, value in own.items()
        if key.endswith("num_batches_tracked") and key not in state
    }
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise DataError(
            f"{path} does not hold the weights of {base.name}: {len(missing)} tensors are missing"
            f"{f' ({missing[0]}, ...)' if missing else ''} and {len(unknown)} are unknown"
            f"{f' ({unknown[0]}, ...)' if unknown else ''}."
        )
    for key, value in own.items():
        if state[key].shape != value.shape:
            raise DataError(
                f"{path} does not fit {base.name}: {key} has shape {tuple(state[key].shape)}, "
                f"expected {tuple(value.shape)}; check the number of classes."
            )
    base.module.load_state_dict(state)
