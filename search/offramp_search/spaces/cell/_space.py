"""The search space of cells."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import comb
from typing import TYPE_CHECKING, final

from optuna.distributions import CategoricalDistribution

from offramp_export.network import MultiStageNetwork, Preprocess
from offramp_search.spaces import _blocks
from offramp_search.spaces._base import Space
from offramp_search.spaces._stage import Stage
from offramp_search.spaces.cell import _form, _plan
from offramp_search.spaces.cell._relaxed import RelaxedCells

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from optuna.distributions import BaseDistribution

    from offramp_search.spaces._base import Architecture
    from offramp_search.spaces._steps import StagePlan, Tensor

    _Planned = tuple[tuple[StagePlan, ...], dict[Tensor, tuple[int, ...]]]

__all__ = ["Cell"]

_EXITS = "exits"
_MOST_EXITS = 1_000
_REMEMBERED = 4096
"""Plans kept: cost, blocks and build ask for the same one in turn."""


@final
class Cell(Space):
    """Stack one cell, and let exits hang between cells.

    The cells of PNAS (Liu et al. 2018, arXiv 1712.00559, section 3.1): up to ``blocks`` blocks,
    each the sum of two operations on two inputs, which are the outputs of the two cells before or
    of earlier blocks. What no block reads is joined. A copy with stride two lies between levels
    and doubles the filters; there is no other reduction. Separable convolutions are applied once.

    Decisions: for each block ``block_B_input_1``, ``block_B_op_1``, ``block_B_input_2`` and
    ``block_B_op_2``; a first input of ``none`` means that there is no such block. Then ``exits``:
    how many cells each stage has, ``"2+3"``.

    Args:
        image_shape: Height and width.
        num_classes: Of every exit.
        preprocess: What normalises the image.
        num_stages: Stages of every network.
        blocks: Blocks of a cell at most; five in the paper.
        filters: Of the cells of the first level.
        cells_per_level: Cells of stride one on each level.
        levels: How many there are; each has maps of half the size.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int],
        num_classes: int,
        preprocess: Preprocess | None = None,
        num_stages: int = 2,
        blocks: int = 5,
        filters: int = 16,
        cells_per_level: int = 1,
        levels: int = 3,
    ) -> None:
        for name, value, least in (
            ("num_classes", num_classes, 2),
            ("num_stages", num_stages, 1),
            ("blocks", blocks, 1),
            ("filters", filters, 1),
            ("cells_per_level", cells_per_level, 1),
            ("levels", levels, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if min(image_shape) < 2 ** (levels - 1):
            raise ValueError(
                f"images of {image_shape[0]} by {image_shape[1]} are too small to be halved "
                f"{levels - 1} times; use fewer levels or larger images"
            )
        level = (1,) * cells_per_level
        strides = level + (2, *level) * (levels - 1)
        if num_stages > len(strides) or comb(len(strides) - 1, num_stages - 1) > _MOST_EXITS:
            raise ValueError(
                f"{num_stages} stages cannot be placed in {len(strides)} cells in at most "
                f"{_MOST_EXITS} ways; use fewer stages, or another number of cells"
            )
        self._stack = _plan.Stack(image_shape, num_classes, filters, strides)
        self._preprocess = preprocess or Preprocess()
        self._num_stages = num_stages
        self._blocks = blocks
        self._decisions = self._make_decisions()
        self._plans: dict[tuple[tuple[_form.CellBlock, ...], str], _Planned] = {}

    @property
    def num_stages(self) -> int:
        """Stages of every network of this space."""
        return self._num_stages

    def decisions(self) -> Mapping[str, BaseDistribution]:
        """Four for each block, then where the exits are."""
        return self._decisions

    def units(self) -> tuple[int, ...]:
        """The four decisions of a block belong together."""
        return (*[4] * self._blocks, 1)

    def neutral(self) -> Architecture:
        """One block, a separable convolution beside an identity, and stages of equal depth."""
        plain = {name: kind.choices[0] for name, kind in self._decisions.items()}
        wanted = dict(
            zip(
                _form.names_of(1),
                (_form.PREVIOUS, "separable_3x3", _form.PREVIOUS, "identity"),
                strict=True,
            )
        )
        even = min(
            (str(choice) for choice in self._decisions[_EXITS].choices),
            key=lambda choice: sum(int(cells) ** 2 for cells in choice.split("+")),
        )
        return {**plain, **wanted, _EXITS: even}

    def canonical(self, architecture: Architecture) -> Hashable:
        """Equal for cells whose blocks or whose blocks' halves are in another order."""
        blocks = self._read(architecture)
        if isinstance(blocks, str):
            return super().canonical(architecture)
        return _form.canonical(blocks), architecture[_EXITS]

    def refusal(self, architecture: Architecture) -> str | None:
        """Why these decisions make no valid network, or ``None`` if they do.

        Raises:
            ValueError: A decision is missing or unknown.
        """
        blocks = self._read(architecture)
        return blocks if isinstance(blocks, str) else None

    def build(self, architecture: Architecture) -> MultiStageNetwork:
        """A new network with random weights, in evaluation mode.

        Raises:
            ValueError: The architecture is refused, or a decision is missing or unknown.
        """
        stages, _ = self._planned(architecture)
        preprocess = self._copy_of_preprocess()
        return MultiStageNetwork([Stage(stage, preprocess) for stage in stages]).eval()

    def relaxed(self, *, seed: int = 0) -> RelaxedCells:
        """All architectures in one network, each as far as it is probable, with random weights.

        Args:
            seed: Of the weights.
        """
        return RelaxedCells(
            *(self._stack, self._decisions, self._blocks, _EXITS),
            preprocess=self._copy_of_preprocess(),
            seed=seed,
        )

    def cost(self, architecture: Architecture) -> tuple[int, ...]:
        """Multiply-adds that each stage adds, exits included."""
        return self._sum(architecture, 0)

    def parameters(self, architecture: Architecture) -> tuple[int, ...]:
        """Trainable parameters that each stage adds, exits included."""
        return self._sum(architecture, 1)

    def blocks(self, architecture: Architecture) -> tuple[tuple[_blocks.OperatorBlock, ...], ...]:
        """The blocks of each stage: a layer, what feeds it and what follows it."""
        stages, shapes = self._planned(architecture)
        return tuple(_blocks.cut(stage.steps, shapes) for stage in stages)

    def _copy_of_preprocess(self) -> Preprocess:
        preprocess = Preprocess()
        preprocess.load_state_dict(self._preprocess.state_dict())
        return preprocess

    def _make_decisions(self) -> dict[str, CategoricalDistribution]:
        operations = CategoricalDistribution(_form.OPERATIONS)
        decisions: dict[str, CategoricalDistribution] = {}
        for block in range(1, self._blocks + 1):
            inputs = _form.inputs_of(block)
            first = inputs if block == 1 else (_form.ABSENT, *inputs)
            kinds = (
                CategoricalDistribution(first),
                operations,
                CategoricalDistribution(inputs),
                operations,
            )
            decisions.update(zip(_form.names_of(block), kinds, strict=True))
        cells = len(self._stack.strides)
        shares = []
        for cuts in combinations(range(1, cells), self._num_stages - 1):
            ends = (0, *cuts, cells)
            counts = [last - first for first, last in pairwise(ends)]
            shares.append("+".join(map(str, counts)))
        decisions[_EXITS] = CategoricalDistribution(shares)
        return decisions

    def _read(self, architecture: Architecture) -> tuple[_form.CellBlock, ...] | str:
        if architecture.keys() != self._decisions.keys():
            missing = [name for name in self._decisions if name not in architecture]
            unknown = [name for name in architecture if name not in self._decisions]
            raise ValueError(
                f"an architecture needs exactly the decisions of its space; missing: {missing}, "
                f"unknown: {unknown}"
            )
        for name, kind in self._decisions.items():
            if architecture[name] not in kind.choices:
                raise ValueError(
                    f"decision {name!r} has no choice {architecture[name]!r}; it has "
                    f"{', '.join(map(str, kind.choices))}"
                )
        return _form.read(architecture, self._blocks)

    def _planned(self, architecture: Architecture) -> _Planned:
        blocks = self._read(architecture)
        if isinstance(blocks, str):
            raise ValueError(f"the architecture is refused: {blocks}")
        exits = str(architecture[_EXITS])
        planned = self._plans.get((blocks, exits))
        if planned is None:
            if len(self._plans) >= _REMEMBERED:
                self._plans.clear()
            planned = _plan.plan(self._stack, blocks, tuple(map(int, exits.split("+"))))
            self._plans[blocks, exits] = planned
        return planned

    def _sum(self, architecture: Architecture, which: int) -> tuple[int, ...]:
        stages, shapes = self._planned(architecture)
        return tuple(sum(_plan.count(step, shapes)[which] for step in s.steps) for s in stages)
