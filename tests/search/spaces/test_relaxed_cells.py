"""A mixture of cells that is sure of one is that one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from offramp_search.objectives import OBJECTIVES, make_objective
from offramp_search.pipeline._supernet import random_architecture
from offramp_search.relaxed import RelaxedObjectiveNetwork
from offramp_search.spaces import Cell
from offramp_search.spaces.cell import _form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from offramp_export.network import MultiStageNetwork
    from offramp_search.spaces import Architecture
    from offramp_search.spaces.cell._relaxed import RelaxedCells

FILTERS = 4


@pytest.fixture(scope="module")
def space() -> Cell:
    return Cell(image_shape=(16, 16), num_classes=5, num_stages=2, blocks=3, filters=FILTERS)


def sure_of(space: Cell, architecture: Architecture) -> dict[str, Tensor]:
    return {
        name: torch.tensor([float(choice == architecture[name]) for choice in kind.choices])
        for name, kind in space.decisions().items()
        if hasattr(kind, "choices")
    }


def unsure(space: Cell) -> dict[str, Tensor]:
    return {
        name: torch.full((len(part),), 1 / len(part), requires_grad=True)
        for name, part in sure_of(space, space.neutral()).items()
    }


def disturbed(relaxed: RelaxedCells) -> RelaxedCells:
    """With statistics of batch normalisation that do something."""
    generator = torch.Generator().manual_seed(1)
    for module in relaxed.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for part in (module.running_mean, module.running_var, module.weight, module.bias):
                assert part is not None
                with torch.no_grad():
                    part.copy_(torch.rand(part.shape, generator=generator) + 0.5)
    return relaxed.eval()


def present(architecture: Architecture) -> list[str]:
    return [
        f"block_{block}"
        for block in range(1, 4)
        if architecture[f"block_{block}_input_1"] != _form.ABSENT
    ]


def not_read(architecture: Architecture) -> list[int]:
    """Channels of a joined output that there are, in multiples of the filters."""
    there = present(architecture)
    read = {architecture[f"{name}_input_{half}"] for name in there for half in (1, 2)}
    return [int(name[-1]) - 1 for name in there if name not in read]


def take_weights(
    network: MultiStageNetwork, relaxed: RelaxedCells, architecture: Architecture
) -> None:
    """Give a built network the weights of a mixture."""
    there = present(architecture)
    for stage in network.stages:
        for name, module in stage.named_children():
            if not list(module.parameters()) or name == "exit":
                continue
            half = re.fullmatch(r"cell(\d+)_block(\d+)_(left|right)(.*)", name)
            if half:
                cell, number, side, rest = half.groups()
                block, which = there[int(number) - 1], 1 if side == "left" else 2
                source = architecture[f"{block}_input_{which}"]
                operation = architecture[f"{block}_op_{which}"]
                origin = f"cell{cell}_{block.replace('_', '')}_{source}_{operation}{rest}"
            else:
                origin = name
            state = relaxed.layers[origin].state_dict()
            weight = module.state_dict()["weight"]
            if weight.ndim == 4 and state["weight"].shape != weight.shape:
                width = state["weight"].shape[1] // 3
                columns = [
                    column
                    for place in not_read(architecture)
                    for column in range(place * width, (place + 1) * width)
                ]
                state["weight"] = state["weight"][:, columns]
            module.load_state_dict(state)


def cell_of(first: Mapping[str, str], space: Cell) -> Architecture:
    return {**space.neutral(), **first}


CELLS: tuple[dict[str, str], ...] = (
    {},
    {"block_2_input_1": "before", "block_2_op_1": "max_pool_3x3", "block_2_op_2": "1x7_7x1"},
    {"block_3_input_1": "block_1", "block_3_input_2": "before", "block_3_op_2": "dilated_3x3"},
    {
        "block_2_input_1": "block_1",
        "block_2_input_2": "block_1",
        "block_3_input_1": "previous",
        "block_3_input_2": "block_1",
        "block_3_op_1": "average_pool_3x3",
    },
)


@pytest.mark.parametrize("number", range(len(CELLS) + 6))
def test_a_sure_distribution_is_its_architecture(space: Cell, number: int) -> None:
    architecture = (
        cell_of(CELLS[number], space)
        if number < len(CELLS)
        else random_architecture(space, np.random.default_rng(number))
    )
    relaxed = disturbed(space.relaxed())
    relaxed.relax(sure_of(space, architecture))
    network = space.build(architecture)
    take_weights(network, relaxed, architecture)
    reads: list[Tensor] = []
    for stage in network.stages:
        pool = stage.get_submodule("exit_pool")
        pool.register_forward_hook(lambda _m, _i, output: reads.append(output))
    batch = torch.rand(2, 16, 16, 3) * 255
    with torch.inference_mode():
        mixtures = relaxed.exit_mixtures(batch, maps=False)
        network(batch)
    assert len(reads) == len(mixtures) == 2
    ends = [int(cells) for cells in str(architecture["exits"]).split("+")]
    for at, (mixture, own) in enumerate(zip(mixtures, reads, strict=True)):
        found = {name: (float(share), read) for name, share, read in mixture}
        chosen = f"{at}_cell{sum(ends[: at + 1]) - 1}"
        assert {name: share for name, (share, _) in found.items() if share} == {chosen: 1.0}
        _, read = found[chosen]
        there = read.view(2, 3, -1)[:, not_read(architecture)].flatten(1)
        torch.testing.assert_close(there, own, rtol=1e-4, atol=1e-4)
        assert float(read.abs().sum()) == pytest.approx(float(there.abs().sum()), rel=1e-5)


def test_the_places_of_an_exit_share_all_probability(space: Cell) -> None:
    relaxed = space.relaxed().eval()
    relaxed.relax(unsure(space))
    with torch.no_grad():
        mixtures = relaxed.exit_mixtures(torch.rand(1, 16, 16, 3), maps=True)
    widths = relaxed.exit_widths(maps=True)
    assert {name for mixture in mixtures for name, _, _ in mixture} == set(widths)
    for mixture in mixtures:
        assert sum(float(share.detach()) for _, share, _ in mixture) == pytest.approx(1)
        for name, _, read in mixture:
            assert read.shape[1] == widths[name]
    assert len(mixtures[-1]) == 1  # the last stage ends where the stack does


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_decision_has_a_gradient(space: Cell, name: Any) -> None:
    objective = make_objective(name, (16, 16))
    network = RelaxedObjectiveNetwork(space.relaxed(), objective).train()
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.float32)
    task = objective.transform(images, np.random.default_rng(0), train=True)
    probabilities = unsure(space)
    loss = torch.stack(
        [
            torch.nn.functional.cross_entropy(answer, torch.from_numpy(task.labels))
            for answer in network(torch.from_numpy(task.images), probabilities)
        ]
    ).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    for decision, part in probabilities.items():
        assert part.grad is not None
        assert float(part.grad.std()) > 0, decision


def test_a_seed_is_a_network_and_nothing_is_mixed_before_it_is_said(space: Cell) -> None:
    one, same, other = space.relaxed(seed=1), space.relaxed(seed=1), space.relaxed(seed=2)
    weights = [network.layers["stem"].weight for network in (one, same, other)]
    assert torch.equal(weights[0], weights[1])  # type: ignore[arg-type]
    assert not torch.equal(weights[0], weights[2])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="call relax"):
        one.exit_mixtures(torch.zeros(1, 16, 16, 3), maps=False)
