"""Weights on disk: safetensors, never pickle, whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from offramp._files import write_atomically
from offramp.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

__all__ = ["load_weights", "read_tensors", "save_weights", "write_tensors"]


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors atomically.

    Args:
        path: The file; its folder is made if need be.
        tensors: Any shapes and dtypes; written contiguous, and each on its own.
        metadata: Text to keep beside them.
    """
    whole = {
        # A copy each: tensors that share memory cannot be stored.
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(whole, metadata=dict(metadata or {})))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Returns:
        The tensors and the metadata.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is no readable safetensors file ({error})") from error


def save_weights(
    module: nn.Module, path: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a module's parameters and buffers atomically.

    Args:
        module: Any module.
        path: The file; its folder is made if need be.
        metadata: Text to keep beside them.
    """
    write_tensors(path, module.state_dict(), metadata=metadata)


def load_weights(module: nn.Module, path: Path) -> dict[str, str]:
    """Put a file's tensors into a module.

    Args:
        module: Must have exactly the file's names and shapes.
        path: The file.

    Returns:
        The metadata.

    Raises:
        DataError: The file is missing or damaged, or belongs to another network.
    """
    tensors, metadata = read_tensors(Path(path))
    own = module.state_dict()
    if differing := sorted(own.keys() ^ tensors.keys()):
        owner = "network" if differing[0] in own else "file"
        raise DataError(
            f"{path} does not fit the network: {differing[0]!r} is only in the {owner} "
            f"({len(differing)} such names)"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise DataError(
                f"{path} does not fit the network: {name!r} is {tuple(tensor.shape)} in the file "
                f"and {tuple(own[name].shape)} in the network"
            )
    module.load_state_dict(tensors)
    return metadata
