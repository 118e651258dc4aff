from __future__ import annotations

from itertools import product

import pytest
import torch

from offramp_search.samplers import PNASSampler
from offramp_search.spaces import Cell

SPACE = Cell(image_shape=(16, 16), num_classes=5, num_stages=2, blocks=3, filters=8)
NEUTRAL = SPACE.neutral()


def with_blocks(*blocks: str, space: Cell = SPACE) -> dict[str, str | int]:
    """Each block as ``input operation input operation``."""
    architecture = dict(space.neutral())
    for number, block in enumerate(blocks, start=1):
        names = [f"block_{number}_{what}" for what in ("input_1", "op_1", "input_2", "op_2")]
        architecture.update(zip(names, block.split(), strict=True))
    return architecture


def test_one_block_cells_are_those_of_the_paper() -> None:
    space = Cell(image_shape=(16, 16), num_classes=5, num_stages=2, blocks=1)
    choices = [kind.choices for kind in space.decisions().values()]  # type: ignore[attr-defined]
    cells = [
        dict(zip(space.decisions(), picked, strict=True))
        for picked in product(*choices[:4], choices[4][:1])
    ]
    assert len(cells) == 256
    assert len({space.canonical(cell) for cell in cells}) == 136
    assert [len(c) for c in choices] == [2, 8, 2, 8, 4]


def test_the_order_of_blocks_and_halves_makes_no_other_cell() -> None:
    one = with_blocks(
        "previous separable_3x3 before identity",
        "before max_pool_3x3 block_1 identity",
        "previous dilated_3x3 previous dilated_3x3",
    )
    other = with_blocks(
        "previous dilated_3x3 previous dilated_3x3",
        "before identity previous separable_3x3",
        "block_2 identity before max_pool_3x3",
    )
    assert SPACE.canonical(one) == SPACE.canonical(other)
    assert SPACE.cost(one) == SPACE.cost(other)
    assert SPACE.canonical(one) != SPACE.canonical({**other, "block_3_op_1": "1x7_7x1"})


def test_which_of_two_equal_blocks_is_read_may_matter() -> None:
    equal = "previous identity previous dilated_3x3"
    both = with_blocks(equal, equal, "block_1 identity block_2 identity")
    first = with_blocks(equal, equal, "block_1 identity block_1 identity")
    second = with_blocks(equal, equal, "block_2 identity block_2 identity")
    assert SPACE.canonical(both) != SPACE.canonical(first)
    assert SPACE.canonical(first) == SPACE.canonical(second)
    assert SPACE.cost(first) == SPACE.cost(second)


def test_an_absent_block_leaves_no_trace() -> None:
    block = "previous separable_5x5 before identity"
    gap = with_blocks(block, "none identity before dilated_3x3", "block_1 identity before identity")
    none = with_blocks(block, "block_1 identity before identity", "none 1x7_7x1 before identity")
    assert SPACE.canonical(gap) == SPACE.canonical(none)
    reading = with_blocks(
        block, "none identity before identity", "block_2 identity before identity"
    )
    assert SPACE.refusal(reading) == "block_3 reads block_2, which is not there"


@pytest.mark.parametrize("size", [(16, 16), (15, 13), (4, 4)])
@torch.no_grad()
def test_every_operation_works_at_every_stride_and_size(size: tuple[int, int]) -> None:
    space = Cell(image_shape=size, num_classes=5, num_stages=2, blocks=5, filters=4)
    operations = space.decisions()["block_1_op_1"].choices  # type: ignore[attr-defined]
    pairs = [
        f"before {one} previous {two}"
        for one, two in zip(operations[::2], operations[1::2], strict=True)
    ]
    architecture = with_blocks(*pairs, space=space)
    first, last = space.build(architecture)(torch.rand(2, *size, 3) * 255)
    assert first.shape == last.shape == (2, 5)
    assert torch.isfinite(last).all()


def test_cells_that_no_exit_needs_are_not_built() -> None:
    # Every cell reads the cell before the previous one alone: the chain skips every other cell.
    skipping = with_blocks("before separable_3x3 before identity")
    plain = with_blocks("previous separable_3x3 previous identity")
    assert sum(SPACE.cost(skipping)) < sum(SPACE.cost(plain))


def test_progressive_search_adds_one_block_a_level() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    decisions = SPACE.decisions()
    for surrogate in ("mlp", "lstm"):
        sampler = PNASSampler(
            0,
            decisions,
            neutral=NEUTRAL,
            beam=4,
            first=1,
            most_first=12,
            surrogate=surrogate,
            allowed=lambda a: SPACE.refusal(a) is None,
            canonical=SPACE.canonical,
            cost=lambda a: sum(SPACE.cost(a)),
            units=SPACE.units(),
            absent="none",
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        asked = []
        for _ in range(12 + 4 + 4):
            trial = study.ask(fixed_distributions=dict(decisions))
            asked.append(trial.params)
            study.tell(trial, float(sum(SPACE.cost(trial.params))))
        sizes = [1 + sum(a[f"block_{b}_input_1"] != "none" for b in (2, 3)) for a in asked]
        assert sizes == [1] * 12 + [2] * 4 + [3] * 4 or sizes[:16] == [1] * 12 + [2] * 4
        assert len({SPACE.canonical(a) for a in asked}) == len(asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"num_stages": 6}, "6 stages cannot be placed in 5 cells"),
        ({"levels": 6}, "too small to be halved 5 times"),
    ],
)
def test_bad_settings_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cell(**{"image_shape": (16, 16), "num_classes": 5, **options})  # type: ignore[arg-type]
