"""Memory and weights of stages: the count itself, and what runtimes really take beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from offramp.errors import ExportError
from offramp_export import Preprocess
from offramp_export._edges import prepare_stages, trace_edges
from offramp_export.footprint import Operator, StageDelegation, peak_bytes, weigh
from offramp_export.targets import CoreML, ExecuTorch, LiteRT, Target
from offramp_export.testing import contract_images, contract_stages


def test_a_value_lives_until_its_last_reader() -> None:
    # 0 -> 1 -> 2, and 2 + 0 -> 3: at the last step 0, 2 and 3 are there.
    chain = [Operator((0,), (1,)), Operator((1,), (2,)), Operator((2, 0), (3,))]
    sizes = {0: 100, 1: 1, 2: 10, 3: 1000}
    assert peak_bytes(chain, sizes, held=(0, 3)) == 100 + 1000 + 10 + 1
    assert peak_bytes(chain, sizes, held=()) == 1000 + 10
    assert peak_bytes(chain, sizes | {1: 5000}, held=()) == 5000 + 10
    assert peak_bytes([], {0: 7}, held=(0, 9)) == 7


@given(st.integers(1, 20), st.randoms(use_true_random=False))
def test_the_peak_is_what_a_simulation_needs(length: int, random: st.DataObject) -> None:
    operators, sizes = [], {0: random.randint(1, 9)}  # type: ignore[attr-defined]
    for place in range(1, length + 1):
        reads = tuple(random.choices(range(place), k=2))  # type: ignore[attr-defined]
        operators.append(Operator(reads, (place,)))
        sizes[place] = random.randint(1, 9)  # type: ignore[attr-defined]
    needed = max(
        sum(
            size
            for value, size in sizes.items()
            if value in (0, length)
            or value == place + 1
            or (value <= place and any(value in later.inputs for later in operators[place:]))
        )
        for place in range(length)
    )
    assert peak_bytes(operators, sizes, held=(0, length)) == needed


def test_what_two_stages_refer_to_is_shared() -> None:
    sizes = {"a": 1, "b": 10, "c": 100, "unused": 1000}
    assert weigh([["a", "b", "b"], ["b", "c"], []], sizes) == [(11, 10), (110, 10), (0, 0)]


class _Block(nn.Module):
    """A residual block and an exit; both stages may hold the same classifier."""

    def __init__(self, first: bool, classifier: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(Preprocess(), nn.Conv2d(3, 8, 3, padding=1)) if first else None
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.classifier = classifier

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x if self.stem is None else torch.relu(self.stem(x))
        x = torch.relu(x + self.two(torch.relu(self.one(x))))
        logits = self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))
        return (logits,) if self.stem is None else (logits, x)


@pytest.fixture(scope="module")
def blocks() -> list[nn.Module]:
    """Two stages, 16x16 images, one classifier of 8 times 5 weights for both."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = nn.Linear(8, 5)
        return [_Block(True, classifier), _Block(False, classifier)]


MAP = 16 * 16 * 8


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_litert_holds_three_maps_in_a_residual_block(
    blocks: list[nn.Module], precision: str
) -> None:
    stages = prepare_stages(blocks)
    carries = trace_edges(stages, 16, 16).carries
    target = LiteRT(precision)  # type: ignore[arg-type]
    first, second = target.footprint(target.convert(stages, carries, contract_images(100)))
    item = 4 if precision == "float32" else 1
    # The block's input and both convolutions; in the first stage the carry's own memory as well.
    assert first.peak_activation_bytes == item * (16 * 16 * 3 + 4 * MAP + 5)
    assert second.peak_activation_bytes == item * (3 * MAP + 5)
    assert second.planned_bytes is None
    if precision == "float32":
        # The file holds one classifier for both.
        assert first.shared_bytes == second.shared_bytes == 4 * (8 * 5 + 5)
    weights = 2 * 8 * 8 * 9 * item + 2 * 8 * 4 + 8 * 5 * item + 5 * 4
    assert weights <= second.weight_bytes <= weights + 100
    assert first.weight_bytes > second.weight_bytes + 3 * 8 * 9 * item


def test_the_plan_of_the_plain_kernels_holds_the_peak(blocks: list[nn.Module]) -> None:
    """The interpreter's own arena, without XNNPACK, is that and what its kernels use."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    stages = prepare_stages(blocks[:1])
    program = LiteRT().convert([_Alone(stages[0])], [[(1, 16, 16, 3)]], None)
    (found,) = LiteRT().footprint(program)
    (content,) = program.files.values()
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    computed = {
        *(int(entry["index"]) for entry in interpreter.get_input_details()),
        *(int(tensor) for op in interpreter._get_ops_details() for tensor in op["outputs"]),
    }
    spans = [interpreter.tensor(index)().__array_interface__["data"][0] for index in computed]
    sizes = [interpreter.tensor(index)().nbytes for index in computed]
    arena = max(map(sum, zip(spans, sizes, strict=True))) - min(spans)
    assert found.peak_activation_bytes is not None
    # Its convolutions write their patches out, nine values for each one of a map.
    assert 0 <= arena - found.peak_activation_bytes <= 4 * 9 * MAP


class _Alone(nn.Module):
    """A first stage that hands on nothing."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage.eval()

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.stage(image)[0],)


def test_executorch_tells_its_plan_and_what_xnnpack_adds(blocks: list[nn.Module]) -> None:
    stages = prepare_stages(blocks)
    carries = trace_edges(stages, 16, 16).carries
    program = ExecuTorch().convert(stages, carries, None)
    given, made = [16 * 16 * 3, MAP], [MAP + 5, 5]
    for index, found in enumerate(ExecuTorch().footprint(program)):
        # All is in XNNPACK, so the plan is for what it makes, and a few bytes between the edges.
        assert found.planned_bytes is not None
        assert 0 <= found.planned_bytes - 4 * made[index] < 128
        # What it reads, where another made it, and XNNPACK's own: two maps of the block at least.
        assert found.peak_activation_bytes is not None
        inside = found.peak_activation_bytes - found.planned_bytes - 4 * given[index]
        assert inside >= 2 * 4 * MAP
        # One classifier is in both methods, and once in the file.
        assert found.shared_bytes >= 4 * 8 * 5
        assert found.delegation is program.delegation[index]
    portable = ExecuTorch(kernels="portable")
    plain = portable.footprint(portable.convert(stages, carries, None))
    for index, found in enumerate(plain):
        # The block's three maps are in the plan.
        assert found.planned_bytes is not None
        assert found.peak_activation_bytes == found.planned_bytes + 4 * given[index]
        assert 4 * 3 * MAP <= found.planned_bytes <= 4 * 6 * MAP


def test_core_ml_tells_what_a_function_weighs(blocks: list[nn.Module]) -> None:
    stages = prepare_stages(blocks)
    carries = trace_edges(stages, 16, 16).carries
    for target in (CoreML(), CoreML("float16", "iOS16")):
        _, second = target.footprint(target.convert(stages, carries, None))
        assert 2 * 2 * 8 * 8 * 9 <= second.weight_bytes <= 2 * (2 * 8 * 8 * 9 + 200)
        assert (second.peak_activation_bytes, second.delegation) == (None, None)


class _CumulativeSum(nn.Module):
    """XNNPACK has no cumulative sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        maps = self.layer(image.permute(0, 3, 1, 2))
        return (torch.cumsum(maps.amax((2, 3)), 1),)


def test_litert_tells_what_xnnpack_left_of_any_stage() -> None:
    stages = prepare_stages([*contract_stages()[:1], _Ends()])
    carries = trace_edges(stages, 16, 16).carries
    program = LiteRT().convert(stages, carries, None)
    first, second = (found.delegation for found in LiteRT().footprint(program))
    assert first is not None
    assert (first.left, first.share) == ({}, 1.0)
    assert first.delegated["CONV_2D"] == 2
    assert second is not None
    assert second.left == {"CUMSUM": 1}
    assert 0.5 < second.share < 1
    with pytest.raises(
        ExportError, match=r"LiteRT: XNNPACK took \d+% .* stage 1.* left CUMSUM \(1\)"
    ):
        LiteRT(delegated_share=0.99).convert(stages, carries, None)
    assert LiteRT(delegated_share=0.5).convert(stages, carries, None).files == program.files
    with pytest.raises(ExportError, match="delegated_share is -1"):
        LiteRT(delegated_share=-1)


class _Ends(nn.Module):
    """Reads the first stage's carry; its logits are a cumulative sum."""

    def forward(self, one: Tensor, two: Tensor) -> tuple[Tensor]:
        both = torch.cat([one.amax((2, 3)), two.amax((2, 3))], 1)
        return (torch.cumsum(both, 1)[:, -5:],)


@pytest.mark.parametrize("target", [LiteRT(), LiteRT("dynamic_int8"), LiteRT("int8")])
def test_the_engine_of_the_sdk_says_the_same(target: Target) -> None:
    """Where all is delegated, LiteRT's compiled model is "fully accelerated"; elsewhere not."""
    from ai_edge_litert.compiled_model import CompiledModel

    def fully(stages: list[nn.Module]) -> tuple[bool, bool]:
        prepared = prepare_stages(stages)
        carries = trace_edges(prepared, 16, 16).carries
        program = target.convert(prepared, carries, contract_images(100))
        (content,) = program.files.values()
        parts = [found.delegation for found in target.footprint(program)]
        assert all(isinstance(part, StageDelegation) for part in parts)
        whole = all(part.share == 1 for part in parts if part is not None)
        return whole, CompiledModel.from_buffer(content).is_fully_accelerated()

    ours, theirs = fully(list(contract_stages()))
    assert ours == theirs
    assert fully([_CumulativeSum()]) == (False, False)


def test_a_stage_of_nothing_is_delegated() -> None:
    assert StageDelegation({}, {}).share == 1.0
    assert StageDelegation({"CONV_2D": 3}, {"CUMSUM": 1}).share == 0.75
    assert np.isclose(StageDelegation({}, {"CUMSUM": 1}).share, 0.0)
