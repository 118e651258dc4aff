"""A training on disk: one safetensors file, so that weights and optimizer cannot part."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, final

import torch

from offramp.errors import ResumeError
from offramp_search.training._history import EpochRecord
from offramp_search.weights import read_tensors, write_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from offramp_search.data import ImageSet
    from offramp_search.training._recipe import Recipe

__all__ = ["Checkpoint"]


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where one training is kept.

    Attributes:
        path: The file.
        run: Fingerprint of everything that decides the outcome; a file of another run is refused.
    """

    path: Path
    run: str

    @classmethod
    def of(
        cls,
        path: Path,
        network: nn.Module,
        data: ImageSet,
        recipe: Recipe,
        seed: int,
        devices: int = 1,
    ) -> Checkpoint:
        """The checkpoint of a training that is about to start or to go on."""
        shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        facts = [asdict(recipe), seed, data.sha256, shapes]
        if devices > 1:  # batch normalisation goes by what one of them sees
            facts.append(devices)
        text = json.dumps(facts, sort_keys=True)
        return cls(path, hashlib.sha256(text.encode()).hexdigest())

    def save(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, epochs: list[EpochRecord]
    ) -> None:
        """Write the state after a finished epoch."""
        tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
        for index, parameter in enumerate(_parameters(optimizer)):
            for key, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"optimizer/{index}/{key}"] = torch.as_tensor(value)
        record = json.dumps([asdict(epoch) for epoch in epochs])
        write_tensors(self.path, tensors, metadata={"run": self.run, "epochs": record})

    def load(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> list[EpochRecord]:
        """Put the saved state back.

        Returns:
            The finished epochs; none if there is no file yet.

        Raises:
            DataError: The file is damaged.
            ResumeError: It belongs to another training.
        """
        if not self.path.exists():
            return []
        tensors, metadata = read_tensors(self.path)
        if metadata.get("run") != self.run:
            raise ResumeError(
                f"{self.path} belongs to a training with another network, recipe, seed, data or "
                f"number of devices; delete it or choose another folder"
            )
        network.load_state_dict(
            {
                name.removeprefix("network/"): value
                for name, value in tensors.items()
                if name.startswith("network/")
            }
        )
        for index, parameter in enumerate(_parameters(optimizer)):
            prefix = f"optimizer/{index}/"
            state = {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
            for key, value in state.items():
                # The layout of the parameter, channels last included, as it was before saving.
                like = torch.empty_like(parameter) if value.shape == parameter.shape else value
                optimizer.state[parameter][key] = like.copy_(value)
        return [
            EpochRecord(**{**epoch, "exit_accuracies": tuple(epoch["exit_accuracies"])})
            for epoch in json.loads(metadata["epochs"])
        ]


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
