"""What every target owes its caller, as tests; a target of your own can run them too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self, final

import numpy as np
import torch
from torch import Tensor, nn

from offramp.bundle import TensorEntry
from offramp_export._edges import prepare_stages, run_stages, trace_edges
from offramp_export.network import Preprocess
from offramp_export.parity import compare, require_agreement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp_export.targets import ConvertedProgram, Target

__all__ = ["TargetCase", "TargetContract", "contract_images", "contract_stages", "unsettle"]

_CLASSES = 5
_SIDE = 16


def contract_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth pictures, no two alike, ``(count, 16, 16, 3)`` uint8."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 255, (count, 2, 2, 3))
    steps = np.linspace(0, 1, _SIDE)
    weights = np.stack([1 - steps, steps])
    smooth = np.einsum("ai,bj,nabc->nijc", weights, weights, corners)
    noisy = smooth + generator.normal(0, 12, smooth.shape)
    images: NDArray[np.uint8] = np.clip(noisy.round(), 0, 255).astype(np.uint8)
    return images


def unsettle(norm: nn.BatchNorm2d) -> None:
    """Leave a batch normalisation as training does, so that folding it in wrongly would show."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    nn.init.uniform_(norm.running_mean, -0.3, 0.3)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.2, 0.2)


def contract_stages(seed: int = 0) -> tuple[nn.Module, ...]:
    """Three stages that hand on everything a carry may hold.

    Maps of two sizes and a vector; a map handed on unchanged over two edges, one returned twice,
    one that the next stage does not read; carries that end in a sigmoid and in a pooling; residual
    sums, concatenation, and depthwise, strided and pooled layers.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stages = nn.ModuleList([_First(), _Middle(), _Last()])
        for module in stages.modules():
            if isinstance(module, nn.BatchNorm2d):
                unsettle(module)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1.5)
    return tuple(stages)


@final
@dataclass(frozen=True, slots=True, eq=False)
class TargetCase:
    """A target, and what it made of ``contract_stages``.

    Attributes:
        target: The target under test.
        program: What it made of the stages.
        images: ``(images, height, width, 3)`` uint8.
        logits: ``(exits, images, classes)`` float32, from torch.
    """

    target: Target
    program: ConvertedProgram
    images: NDArray[np.uint8]
    logits: NDArray[np.float32]

    @classmethod
    def make(cls, target: Target) -> Self:
        """Convert the stages; slow, so make one case for all tests."""
        stages = prepare_stages(contract_stages())
        images = contract_images(24)
        edges = trace_edges(stages, _SIDE, _SIDE)
        before = [value.clone() for stage in stages for value in stage.state_dict().values()]
        program = target.convert(stages, edges.carries, contract_images(40, seed=1))
        after = [value for stage in stages for value in stage.state_dict().values()]
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True)), (
            "convert changed the stages it was given"
        )
        outputs = run_stages(stages, torch.from_numpy(images.astype(np.float32)))
        return cls(target, program, images, np.stack([output[0].numpy() for output in outputs]))


class TargetContract(ABC):
    """Tests of the promises in ``offramp_export.targets.Target``.

    Derive a class named ``Test...`` in a pytest module and implement ``case``; every method whose
    name begins with ``test_`` is then run on that target.
    """

    @abstractmethod
    def case(self) -> TargetCase:
        """The target under test; the same object at each call, since converting is slow."""

    def test_every_exit_answers_as_torch_does(self) -> None:
        """Logits within the tolerance, or the same labels where there is none."""
        case = self.case()
        name = case.target.name
        logits = case.target.run(case.program, case.images)
        assert logits.shape == case.logits.shape
        assert logits.dtype == np.float32
        parity = compare(name, logits, case.logits, tolerance=case.target.tolerance)
        require_agreement(parity)
        assert parity.exit_agreement >= 0.9
        # The bar is one that a wrong program does not take: every other image's answers fail it.
        wrong = compare(name, logits[:, ::-1], case.logits, tolerance=case.target.tolerance)
        assert max(exit.difference for exit in wrong.exits) > 10 * max(
            exit.difference for exit in parity.exits
        )

    def test_an_image_is_answered_alike_wherever_it_stands(self) -> None:
        """Nothing of an image is left in the program when the next one comes."""
        case = self.case()
        forwards = case.target.run(case.program, case.images[:4])
        backwards = case.target.run(case.program, case.images[3::-1])
        np.testing.assert_array_equal(forwards, backwards[:, ::-1])

    def test_its_footprint_is_that_of_its_files(self) -> None:
        """Every stage's weights are there, and no more than the files hold."""
        case = self.case()
        footprint = case.target.footprint(case.program)
        assert len(footprint) == len(contract_stages())
        size_bytes = sum(map(len, case.program.files.values()))
        assert sum(found.weight_bytes - found.shared_bytes for found in footprint) < size_bytes
        for stage, found in zip(contract_stages(), footprint, strict=True):
            parameters = sum(value.numel() for value in stage.parameters())
            # From a palette of four bits to float32 with what batch norms leave.
            assert parameters / 2 <= found.weight_bytes <= 5 * parameters
            assert 0 <= found.shared_bytes <= found.weight_bytes

    def test_stages_fit_together(self) -> None:
        """What a stage hands on is, to the scale, what the next one takes."""
        stages = self.case().program.stages
        assert len(stages) == len(contract_stages())
        for stage, following in pairwise(stages):
            assert stage.outputs[1:] == following.inputs
        assert len(stages[-1].outputs) == 1

    def test_the_image_and_the_logits_are_as_every_binding_knows_them(self) -> None:
        """The image is channel-last, and the logits are one row."""
        stages = self.case().program.stages
        (image,) = stages[0].inputs
        assert image.shape == (1, _SIDE, _SIDE, 3)
        assert image.dtype in ("float32", "int8", "int16")
        assert (image.quantization is None) == (image.dtype == "float32")
        assert all(stage.outputs[0].shape == (1, _CLASSES) for stage in stages)
        assert all(isinstance(tensor, TensorEntry) for stage in stages for tensor in stage.outputs)

    def test_files_are_in_the_runtimes_folder(self) -> None:
        """Paths are relative, and begin with the runtime's name."""
        case = self.case()
        assert case.program.files
        for path, content in case.program.files.items():
            assert path.split("/")[0] == case.target.runtime
            assert ".." not in path.split("/")
            assert content
        assert case.program.exporter.get("torch")

    def test_equal_stages_give_equal_bytes(self) -> None:
        """Converting again changes nothing, so a bundle's hash means something."""
        stages = prepare_stages([_Only()])
        carries = trace_edges(stages, _SIDE, _SIDE).carries
        once, again = (
            self.case().target.for_stage(0).convert(stages, carries, contract_images(40, seed=1))
            for _ in range(2)
        )
        assert dict(once.files) == dict(again.files)
        assert once.stages == again.stages


def _layer(inputs: int, outputs: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


@final
class _Exit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(torch.flatten(self.pool(x), 1))
        return logits


@final
class _First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.preprocess = Preprocess()
        self.wide = _layer(3, 8)
        self.small = _layer(8, 16, stride=2)
        self.exit = _Exit(16)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        wide = self.wide(self.preprocess(image))
        small = self.small(wide)
        return self.exit(small), wide, small


@final
class _Middle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = _layer(16, 16, groups=16)
        self.mix = _layer(16, 16)
        self.pool = nn.MaxPool2d(2, 2)
        self.exit = _Exit(16)
        self.vector = nn.Linear(16, 6)

    def forward(self, wide: Tensor, small: Tensor) -> tuple[Tensor, ...]:
        mixed = self.mix(self.depthwise(small)) + small
        gate = torch.sigmoid(mixed)
        vector = torch.relu(self.vector(torch.flatten(self.exit.pool(mixed), 1)))
        return self.exit(mixed), wide, mixed, mixed, small, gate, self.pool(mixed), vector


@final
class _Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.MaxPool2d(2, 2)
        self.join = _layer(24, 16)
        self.exit = _Exit(32)
        self.from_vector = nn.Linear(6, _CLASSES)

    def forward(
        self,
        wide: Tensor,
        mixed: Tensor,
        same: Tensor,
        unread: Tensor,
        gate: Tensor,
        pooled: Tensor,
        vector: Tensor,
    ) -> tuple[Tensor]:
        joined = self.join(torch.cat([self.narrow(wide), same * gate + mixed], 1))
        last = torch.cat([self.narrow(joined), pooled], 1)
        return (self.exit(last) + self.from_vector(vector),)


@final
class _Only(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layer = _layer(3, 4)
            self.exit = _Exit(4)
        self.preprocess = Preprocess()

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.exit(self.layer(self.preprocess(image))),)
