"""A network's weights from a safetensors file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__all__ = ["load_weights"]

_MOST_NAMES = 5


def load_weights(network: nn.Module, path: Path) -> None:
    """Load all parameters and buffers of a network.

    Args:
        network: Changed in place; every tensor of the file must fit one of its own.
        path: A safetensors file.

    Raises:
        DataError: The file is missing or damaged, or its names or shapes are not the network's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} is no readable safetensors file ({error}); write one with "
            "safetensors.torch.save_file(network.state_dict(), path)"
        ) from error
    try:
        found = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise DataError(f"{path} has weights of other shapes: {error}") from error
    missing = [name for name in found.missing_keys if not name.endswith("num_batches_tracked")]
    for names, what in ((missing, "lacks"), (found.unexpected_keys, "has, beyond the network's,")):
        if names:
            more = "" if len(names) <= _MOST_NAMES else f" and {len(names) - _MOST_NAMES} more"
            raise DataError(f"{path} {what} {', '.join(names[:_MOST_NAMES])}{more}")
