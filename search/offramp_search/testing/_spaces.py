"""What every search space must do."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution, IntDistribution
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from offramp_export import export
from offramp_export.network import MultiStageNetwork
from offramp_export.targets import CoreML, ExecuTorch, LiteRT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from offramp_search.spaces import Architecture, Space

__all__ = ["SpaceContract"]

_ARCHITECTURES = 6
_ATTEMPTS = 1_000


class SpaceContract(ABC):
    """Say in a subclass how to make the space, and pytest runs the contract.

    Keep the images small and the networks narrow: every test builds several architectures, and
    one converts one of them for all three runtimes, which takes most of the time.
    """

    image_shape: tuple[int, int] = (16, 16)
    """Height and width that the space is made for."""

    @abstractmethod
    def make_space(self) -> Space:
        """A new space of at least two stages."""

    @abstractmethod
    def refused(self) -> Architecture:
        """Decisions that make no valid network."""

    @pytest.fixture
    def space(self) -> Space:
        """What ``make_space`` makes, for each test."""
        return self.make_space()

    def draw(self, space: Space, count: int, seed: int = 0) -> list[Architecture]:
        """Random architectures that are not refused, the same for the same seed."""
        rng = np.random.default_rng(seed)
        found: list[Architecture] = []
        for _ in range(_ATTEMPTS):
            architecture: dict[str, str | int] = {}
            for name, kind in space.decisions().items():
                if isinstance(kind, CategoricalDistribution):
                    architecture[name] = kind.choices[int(rng.integers(len(kind.choices)))]  # type: ignore[assignment]
                else:
                    assert isinstance(kind, IntDistribution)
                    steps = int(rng.integers((kind.high - kind.low) // kind.step + 1))
                    architecture[name] = kind.low + steps * kind.step
            if space.refusal(architecture) is None:
                found.append(architecture)
            if len(found) == count:
                return found
        raise AssertionError(f"only {len(found)} of {_ATTEMPTS} random architectures are valid")

    def images(self, count: int = 2) -> Tensor:
        """Random images as an app has them."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(count, *self.image_shape, 3, generator=generator) * 255

    def built(self, space: Space, architecture: Architecture, seed: int = 3) -> MultiStageNetwork:
        """A network whose new weights come from the seed."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return space.build(architecture)

    def test_decisions_can_be_counted_and_keep_their_order(self, space: Space) -> None:
        """Two spaces made alike are alike; units share out all decisions."""
        decisions = space.decisions()
        assert decisions
        assert all(
            isinstance(d, CategoricalDistribution | IntDistribution) for d in decisions.values()
        )
        assert list(decisions.items()) == list(self.make_space().decisions().items())
        assert sum(space.units()) == len(decisions)
        assert min(space.units()) >= 1

    def test_the_neutral_architecture_works(self, space: Space) -> None:
        """Where the space names one."""
        neutral = space.neutral()
        if neutral is not None:
            assert list(neutral) == list(space.decisions())
            assert space.refusal(neutral) is None

    def test_landmarks_are_architectures_of_the_space(self, space: Space) -> None:
        """Where it names some; at least one of them is a valid network."""
        landmarks = space.landmarks()
        assert all(list(one) == list(space.decisions()) for one in landmarks)
        refusals = [space.refusal(one) for one in landmarks]
        assert not landmarks or None in refusals

    def test_the_same_architecture_is_the_same_network(self, space: Space) -> None:
        """Whichever space made alike builds it, with new weights from the same seed."""
        other = self.make_space()
        for architecture in self.draw(space, _ARCHITECTURES):
            assert space.cost(architecture) == other.cost(architecture)
            assert space.canonical(architecture) == other.canonical(architecture)
            keys = [[block.key for block in stage] for stage in space.blocks(architecture)]
            assert keys == [[block.key for block in stage] for stage in other.blocks(architecture)]
        with torch.no_grad():
            one, two = (self.built(made, architecture)(self.images()) for made in (space, other))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))

    def test_built_networks_own_their_weights(self, space: Space) -> None:
        """Training one changes no other."""
        (architecture,) = self.draw(space, 1)
        first, second = space.build(architecture), space.build(architecture)
        assert not first.training
        pointers = {p.data_ptr() for p in first.parameters()}
        assert not pointers & {p.data_ptr() for p in second.parameters()}

    def test_cost_and_parameters_are_what_is_built(self, space: Space) -> None:
        """Counted stage by stage on the network itself."""
        for architecture in self.draw(space, _ARCHITECTURES):
            network = space.build(architecture)
            assert len(network.stages) == space.num_stages
            counted = []
            carry: tuple[Tensor, ...] = (self.images(1),)
            for stage in network.stages:
                with torch.no_grad(), FlopCounterMode(display=False) as counter:
                    logits, *carried = stage(*carry)
                assert logits.ndim == 2
                carry = tuple(carried)
                counted.append(counter.get_total_flops() // 2)
            assert not carry
            assert space.cost(architecture) == tuple(counted)
            assert space.parameters(architecture) == tuple(
                sum(p.numel() for p in stage.parameters()) for stage in network.stages
            )

    def test_blocks_do_the_work_of_their_stage(self, space: Space) -> None:
        """All of it and once; equal keys mean equal inputs."""
        for architecture in self.draw(space, 3):
            shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
            for blocks, expected in zip(
                space.blocks(architecture), space.cost(architecture), strict=True
            ):
                work = 0
                for block in blocks:
                    module = block.module()
                    inputs = [torch.rand(shape) for shape in block.input_shapes]
                    assert not module.training
                    assert shapes.setdefault(block.key, block.input_shapes) == block.input_shapes
                    with torch.no_grad(), FlopCounterMode(display=False) as counter:
                        assert isinstance(module(*inputs), Tensor)
                    work += counter.get_total_flops() // 2
                assert work == expected

    def test_an_exit_does_not_depend_on_later_stages(self, space: Space) -> None:
        """Neither on whether they are there nor on their weights."""
        images = self.images()
        for architecture in self.draw(space, 3):
            network = copy.deepcopy(space.build(architecture))
            with torch.no_grad():
                for kept in range(space.num_stages - 1, 0, -1):
                    whole = network(images)
                    alone = MultiStageNetwork(list(network.stages)[:kept])(images)
                    assert all(torch.equal(a, b) for a, b in zip(alone, whole[:kept], strict=True))
                    for parameter in network.stages[kept].parameters():
                        parameter.add_(1.0)
                    disturbed = network(images)
                    assert all(
                        torch.equal(a, b) for a, b in zip(disturbed[:kept], alone, strict=True)
                    )
                    assert not torch.equal(disturbed[kept], whole[kept])

    def test_gradients_reach_every_parameter(self, space: Space) -> None:
        """Nothing is built that no exit needs."""
        for architecture in self.draw(space, 3):
            network = space.build(architecture).train()
            outputs = network(self.images(4))
            torch.stack([logits.square().sum() for logits in outputs]).sum().backward()  # type: ignore[no-untyped-call]
            assert all(parameter.grad is not None for parameter in network.parameters())

    def test_equal_canonical_forms_cost_the_same(self, space: Space) -> None:
        """And an architecture equals itself."""
        costs: dict[object, tuple[int, ...]] = {}
        for architecture in self.draw(space, 200, seed=1):
            form = space.canonical(dict(architecture))
            assert form == space.canonical(architecture)
            cost = tuple(sorted(space.cost(architecture)))
            assert costs.setdefault(form, cost) == cost

    def test_equal_identities_are_one_network(self, space: Space) -> None:
        """Of equal blocks, and with equal answers where it begins with equal weights."""
        firsts: dict[object, Architecture] = {}
        pairs = []
        for architecture in self.draw(space, 200, seed=1):
            identity = space.identity(dict(architecture))
            assert identity == space.identity(architecture)
            first = firsts.setdefault(identity, architecture)
            if space.canonical(first) != space.canonical(architecture):
                pairs.append((first, architecture))
        for pair in pairs[:_ARCHITECTURES]:
            one, other = (
                [[block.key for block in stage] for stage in space.blocks(each)] for each in pair
            )
            assert one == other
            with torch.no_grad():
                answers = [self.built(space, each)(self.images()) for each in pair]
            assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))

    def test_what_is_refused_costs_no_forward_pass(self, space: Space) -> None:
        """It is refused in a sentence, and never built."""
        refused = self.refused()

        def forbid(module: object, inputs: object, output: object) -> None:
            raise AssertionError("a module was run")

        hook = torch.nn.modules.module.register_module_forward_hook(forbid)
        try:
            reason = space.refusal(refused)
            assert reason
            with pytest.raises(ValueError, match="refused"):
                space.build(refused)
            for architecture in self.draw(space, _ARCHITECTURES):
                space.cost(architecture)
                space.parameters(architecture)
                space.blocks(architecture)
        finally:
            hook.remove()

    def test_unknown_and_missing_decisions_are_named(self, space: Space) -> None:
        """And so are unknown choices."""
        (architecture,) = self.draw(space, 1)
        name = next(iter(space.decisions()))
        less = {key: value for key, value in architecture.items() if key != name}
        ask: tuple[Callable[[Architecture], object], ...] = (space.refusal, space.build, space.cost)
        for call in ask:
            for wrong in ({**architecture, "colour": "red"}, less, {**architecture, name: "?"}):
                with pytest.raises(ValueError, match=f"colour|{name}"):
                    call(wrong)

    def test_a_network_exports_to_all_three_formats(self, space: Space, tmp_path: Path) -> None:
        """The export itself compares every exit with torch, and raises where they differ."""
        (architecture,) = self.draw(space, 1, seed=2)
        network = self.built(space, architecture)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (2, *self.image_shape, 3), dtype=np.uint8)
        with torch.no_grad():
            classes = network(self.images(1))[0].shape[1]
        targets = [LiteRT(), ExecuTorch(), CoreML()]
        result = export(
            list(network.stages),
            images,
            targets,
            path=tmp_path / "bundle",
            labels=[str(label) for label in range(classes)],
        )
        runtimes = {program.runtime for program in result.bundle.manifest.programs}
        assert runtimes == {"litert", "executorch", "coreml"}
