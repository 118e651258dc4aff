"""The bilevel optimisation of weights and choices."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn

from offramp.errors import DataError, ResumeError, TrainingError
from offramp_search.relaxed._unrolled import unrolled_gradients
from offramp_search.weights import read_tensors, write_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from optuna.distributions import BaseDistribution

    from offramp_search.data import ImageSet
    from offramp_search.relaxed._latency import AdditiveLatency
    from offramp_search.relaxed._recipe import RelaxedRecipe

__all__ = ["Task", "relax"]


class Task(Protocol):
    """What the network is shown, and what it should answer."""

    @property
    def images(self) -> NDArray[np.float32]:
        """``(shown, height, width, 3)``, on the scale of 0 to 255."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """``(answers,)``."""


def relax(
    network: nn.Module,
    decisions: Mapping[str, BaseDistribution],
    data: ImageSet,
    *,
    transform: Callable[[NDArray[np.float32], np.random.Generator], Task],
    recipe: RelaxedRecipe,
    latency: AdditiveLatency | None = None,
    checkpoint: Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    r"""Find how probable each choice should be (DARTS; Liu et al. 2019, arXiv 1806.09055).

    .. math:: \min_\alpha L_R(w^*(\alpha), \alpha) + \lambda\,T(\alpha) - \eta\,H(\alpha), \quad
              w^*(\alpha) = \arg\min_w L_L(w, \alpha)

    over the two halves L and R of the images, by a step of Adam for the logits alpha and one of SGD
    for the weights in turn. T is the expected latency as a share of its limit, H the mean entropy
    of the decisions. The first-order gradient takes the weights as constants; the second-order one
    goes through one step of theirs (equation 7, by the finite differences of equation 8).

    Everything random is a function of the seed and the step, so that a search which is killed and
    run again with the same checkpoint ends in the same probabilities.

    Args:
        network: Called with images and, for every decision, ``(choices,)`` probabilities; returns
            the logits of every exit. Trained in place.
        decisions: Categorical ones.
        data: The images; labels are not looked at.
        transform: Makes the task of a batch.
        recipe: How to search.
        latency: What architectures take; ``None`` leaves latency out.
        checkpoint: A file that is written after each epoch, and gone on from if it is there.
        seed: Of everything.
        progress: Called with (steps done, steps in all).

    Returns:
        For every decision the probability of each choice.

    Raises:
        DataError: There are fewer images than two batches hold.
        ResumeError: The checkpoint belongs to another search.
        TrainingError: The loss is no longer a finite number.
    """
    steps_per_epoch = len(data) // 2 // recipe.batch_size
    if not steps_per_epoch:
        raise DataError(
            f"{len(data)} images do not fill a batch of {recipe.batch_size} in each of two halves; "
            "give more images or a smaller batch"
        )
    choices = _initial(decisions, recipe, seed)
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for_weights = torch.optim.SGD(
        weights,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    for_choices = torch.optim.Adam(
        choices.values(),
        lr=recipe.choice_learning_rate,
        betas=(0.5, 0.999),
        weight_decay=recipe.choice_weight_decay,
    )
    state = _State(network, choices, for_weights, for_choices)
    run = _fingerprint(network, decisions, data, recipe, seed, latency)
    begin = state.load(checkpoint, run) if checkpoint is not None else 0
    halves = np.array_split(np.random.default_rng([seed, 1]).permutation(len(data)), 2)
    total = recipe.epochs * steps_per_epoch

    def task(half: int, step: int) -> Task:
        epoch, index = divmod(step, steps_per_epoch)
        order = np.random.default_rng([seed, 2, half, epoch]).permutation(len(halves[half]))
        rows = halves[half][order[index * recipe.batch_size : (index + 1) * recipe.batch_size]]
        drawn = np.random.default_rng([seed, 3, half, step])
        return transform(data.images[rows].astype(np.float32), drawn)

    def loss(task: Task) -> Tensor:
        answers = network(torch.from_numpy(task.images), _probabilities(choices, recipe))
        labels = torch.from_numpy(task.labels)
        parts = [nn.functional.cross_entropy(answer, labels) for answer in answers]
        return torch.stack(parts).mean()

    def outer(task: Task) -> Tensor:
        probabilities = _probabilities(choices, recipe)
        value = loss(task)
        if latency is not None and recipe.latency_weight:
            value = value + recipe.latency_weight * latency.share(probabilities)
        if recipe.entropy_weight:
            entropies = [-(p * p.clamp_min(1e-12).log()).sum() for p in probabilities.values()]
            value = value - recipe.entropy_weight * torch.stack(entropies).mean()
        return value

    network.train()
    for step in range(begin, total):
        rate = recipe.learning_rate_at(step // steps_per_epoch)
        for_weights.param_groups[0]["lr"] = rate
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(int(np.random.default_rng([seed, 4, step]).integers(2**62)))
            inner_task = task(0, step)
            if step >= recipe.frozen_epochs * steps_per_epoch:
                outer_task = task(1, step)
                for_choices.zero_grad()
                if recipe.order == 2:
                    unrolled_gradients(
                        weights,
                        list(choices.values()),
                        for_weights,
                        lambda inner_task=inner_task: loss(inner_task),  # type: ignore[misc]
                        lambda outer_task=outer_task: outer(outer_task),  # type: ignore[misc]
                    )
                else:
                    outer(outer_task).backward()  # type: ignore[no-untyped-call]
                for_choices.step()
            for_weights.zero_grad()
            value = loss(inner_task)
            if not math.isfinite(float(value.detach())):
                raise TrainingError(
                    f"the loss became {float(value.detach())} in step {step + 1} of the relaxed "
                    f"search; lower the learning rate (it was {rate:g})"
                )
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, recipe.clip_norm)
            for_weights.step()
        if progress is not None:
            progress(step + 1, total)
        if checkpoint is not None and (step + 1) % steps_per_epoch == 0:
            state.save(checkpoint, run, step + 1)
    network.eval()
    final = _probabilities(choices, recipe)
    return {name: part.detach().double().numpy() for name, part in final.items()}


def _initial(
    decisions: Mapping[str, BaseDistribution], recipe: RelaxedRecipe, seed: int
) -> dict[str, Tensor]:
    """Logits next to zero, as in the released configuration."""
    drawn = np.random.default_rng([seed, 0])
    choices = {}
    for name, kind in decisions.items():
        if not isinstance(kind, CategoricalDistribution):
            raise ValueError(f"decision {name!r} has no named choices to mix, got {kind}")
        start = recipe.initial_spread * drawn.standard_normal(len(kind.choices))
        choices[name] = torch.tensor(start, dtype=torch.float32, requires_grad=True)
    return choices


def _probabilities(choices: Mapping[str, Tensor], recipe: RelaxedRecipe) -> dict[str, Tensor]:
    return {name: (part / recipe.temperature).softmax(0) for name, part in choices.items()}


def _fingerprint(
    network: nn.Module,
    decisions: Mapping[str, BaseDistribution],
    data: ImageSet,
    recipe: RelaxedRecipe,
    seed: int,
    latency: AdditiveLatency | None,
) -> str:
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    facts = [asdict(recipe), seed, data.sha256, shapes, {k: str(v) for k, v in decisions.items()}]
    facts.append(None if latency is None else latency.sha256)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class _State:
    """All that changes, in one file."""

    def __init__(
        self,
        network: nn.Module,
        choices: Mapping[str, Tensor],
        *optimizers: torch.optim.Optimizer,
    ) -> None:
        self._network, self._choices, self._optimizers = network, choices, optimizers

    def save(self, path: Path, run: str, step: int) -> None:
        tensors = {f"network/{name}": part for name, part in self._network.state_dict().items()}
        tensors |= {f"choices/{name}": part.detach() for name, part in self._choices.items()}
        for number, optimizer in enumerate(self._optimizers):
            for index, kept in optimizer.state_dict()["state"].items():
                for key, part in kept.items():
                    if part is not None:
                        tensors[f"optimizer/{number}/{index}/{key}"] = torch.as_tensor(part)
        write_tensors(path, tensors, metadata={"run": run, "step": str(step)})

    def load(self, path: Path, run: str) -> int:
        """Put the saved state back; the step to go on with."""
        if not path.exists():
            return 0
        tensors, metadata = read_tensors(path)
        if metadata.get("run") != run:
            raise ResumeError(
                f"{path} belongs to a search with another network, recipe, seed, data or latency "
                "table; delete it or choose another folder"
            )
        self._network.load_state_dict(_below(tensors, "network/"))
        for name, part in _below(tensors, "choices/").items():
            with torch.no_grad():
                self._choices[name].copy_(part)
        for number, optimizer in enumerate(self._optimizers):
            whole: dict[str, Any] = optimizer.state_dict()
            kept: dict[int, dict[str, Tensor]] = {}
            for name, part in _below(tensors, f"optimizer/{number}/").items():
                index, key = name.split("/")
                kept.setdefault(int(index), {})[key] = part
            optimizer.load_state_dict({**whole, "state": kept})
        return int(metadata["step"])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)
    }
