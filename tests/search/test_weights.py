"""Weights come back as they were, and foreign ones are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from offramp.errors import DataError
from offramp_search.weights import load_weights, read_tensors, save_weights, write_tensors

if TYPE_CHECKING:
    from pathlib import Path


def make(width: int = 4, *, norm: bool = True) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3)]
    return nn.Sequential(*layers, *([nn.BatchNorm2d(width)] if norm else []))


def test_a_module_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "new" / "weights.safetensors"
    network, other = make(), make()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_weights(network, path, metadata={"epoch": "3"})
    assert load_weights(other, path) == {"epoch": "3"}
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_tensors_that_share_memory_are_written_each_on_its_own(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    write_tensors(tmp_path / "t.safetensors", {"whole": whole, "view": whole.T})
    tensors, metadata = read_tensors(tmp_path / "t.safetensors")
    assert torch.equal(tensors["view"], whole.T)
    assert metadata == {}


def test_foreign_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(make(), path)
    with pytest.raises(DataError, match=r"'1\.bias' is only in the file \(5 such names\)"):
        load_weights(make(norm=False), path)
    with pytest.raises(DataError, match=r"'0\.bias' is \(4,\) in the file"):
        load_weights(make(5), path)
    path.write_bytes(b"\0" * 20)
    with pytest.raises(DataError, match="no readable safetensors file"):
        load_weights(make(), path)
    with pytest.raises(DataError, match="no readable safetensors file"):
        load_weights(make(), tmp_path / "missing.safetensors")
