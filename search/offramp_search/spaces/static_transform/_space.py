"""The search space of the static transform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch
from optuna.distributions import CategoricalDistribution

from offramp_export.network import MultiStageNetwork, Preprocess
from offramp_search.spaces import _blocks, _steps
from offramp_search.spaces._base import Space
from offramp_search.spaces._stage import Stage
from offramp_search.spaces.static_transform import _corners, _costs, _labels, _places, _plan
from offramp_search.spaces.static_transform._graph import read_graph
from offramp_search.spaces.static_transform._labeller import Labeller
from offramp_search.spaces.static_transform._masked import MaskedNetwork
from offramp_search.spaces.static_transform._relaxed import RelaxedTransform
from offramp_search.spaces.static_transform._units import find_units
from offramp_search.spaces.static_transform._weights import load_stage

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from optuna.distributions import BaseDistribution
    from torch import nn

    from offramp_search.spaces._base import Architecture
    from offramp_search.spaces.static_transform._labelling import Labelling

__all__ = ["StaticTransform"]

_EXIT = "exit_"
_POWERS = (1.0, 0.5, 0.7, 1.5)


@final
class StaticTransform(Space):
    """Distribute the channels of a CNN over stages: split and concatenate, nothing else.

    Each decision names a unit (a layer, or all layers that write into one residual stream) and
    says how many of its parts each stage computes: ``"2+2+4"``. A stage reads what it and earlier
    stages have computed. Equal shares everywhere give thin stages of full depth, as in S2DNAS
    (Yuan et al., arXiv 1911.07033); whole units in one stage after the other give exits at
    different depths, as in BranchyNet (Teerapittayanon et al., arXiv 1709.01686) and SDN (Kaya et
    al., arXiv 1810.07052).

    Args:
        base: Takes ``(images, 3, height, width)`` normalised float32 and returns logits.
        image_shape: Height and width.
        preprocess: What normalises the image for the base.
        num_stages: Stages of every network.
        groups: The largest number of parts a unit is cut into.
        vector_width: Channels that the device computes at a time: 8 (float32) or 16 (int8) for a
            phone's NEON kernels, 32 or 16 for those of AVX-512. Parts are multiples of it, since
            smaller ones save nothing; a unit with no more channels stays whole.
        exit_grid: Rows and columns, at most, of the averages that an exit reads of its map; the
            base's own classifier reads what it always did. Early maps have few channels, and their
            average alone says little: four by four of them make much better exits for little time.
            A search then likes tiny first stages, though, of which few answers can be certified.
        exit_head_channels: Channels of a convolution of three by three that every exit before the
            base's own begins with, with a normalisation and a rectifier, behind the map it hangs
            on; 0 is none. A classifier alone asks of an early map what it was never trained for; a
            convolution that is trained for the exit makes much better ones. Exits of several stages
            on one map share the channels out equally, and later ones read those of earlier ones
            too. It costs at most a fifteenth of what the base spends up to the map, or else works
            on four by four averages of it.
        exit_places: Let a decision of each early exit say after which of so many places, at most,
            its stage computes nothing more: maps that all that follows is computed from, such as
            the ends of residual blocks. Layers that write into one residual stream are cut alike,
            so without it no exit can hang between two blocks of one resolution with all their
            channels.
        tie: Let all layers that write maps of one shape choose together (residual streams apart
            from layers inside blocks). A far smaller space with far fewer blocks to measure, for
            deep networks and short searches.
        carry: How a convolution reads what earlier stages hand on: joined with what its own stage
            has (``concatenate``), or each part by a convolution of its own (``sum``), the kernel
            split by input channels. Same decisions, weights, answers and multiply-adds, but for
            rounding; which is faster depends on the device.

    Raises:
        UnsupportedOperatorError: The base uses an operator that has no rule.
        ShapeError: The base does not take such images.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        image_shape: tuple[int, int],
        preprocess: Preprocess,
        num_stages: int,
        groups: int = 8,
        vector_width: int = 1,
        tie: bool = False,
        exit_grid: int = 1,
        exit_head_channels: int = 0,
        exit_places: int = 0,
        carry: Literal["concatenate", "sum"] = "concatenate",
    ) -> None:
        if not 1 <= num_stages <= 16:
            raise ValueError(f"num_stages must be from 1 to 16, got {num_stages}")
        if min(groups, vector_width, exit_grid) < 1 or exit_places < 0:
            raise ValueError(
                "groups, vector_width and exit_grid must be positive, and exit_places not "
                f"negative, got {groups}, {vector_width}, {exit_grid} and {exit_places}"
            )
        if exit_head_channels and exit_head_channels < num_stages:
            raise ValueError(
                f"exit_head_channels must be 0, or at least one for each of {num_stages} stages, "
                f"got {exit_head_channels}; give 64, say"
            )
        if carry not in ("concatenate", "sum"):
            raise ValueError(f"carry must be concatenate or sum, got {carry!r}")
        self._carry = carry
        self._num_stages = num_stages
        self._image_shape = image_shape
        self._preprocess = preprocess
        self._graph = read_graph(base, image_shape, exit_grid, exit_head_channels)
        self._units = find_units(
            self._graph, groups=groups, stages=num_stages, tie=tie, vector_width=vector_width
        )
        places = _places.find_places(self._graph, exit_places)
        self._places = {_places.END: None, **{place.name: place for place in places}}
        early = range(num_stages - 1) if places else ()
        self._exits = tuple(f"{_EXIT}{stage}" for stage in early)
        self._base: MaskedNetwork | None = None
        self._labeller = Labeller(self._graph, self._units, self._exits, self._places, num_stages)

    @property
    def num_stages(self) -> int:
        """Stages of every network of this space."""
        return self._num_stages

    def decisions(self) -> Mapping[str, BaseDistribution]:
        """For every unit, named after its first layer, how its parts are distributed.

        Before them, if exits may be moved, the place of each.
        """
        places = CategoricalDistribution(tuple(self._places))
        return {
            **dict.fromkeys(self._exits, places),
            **{unit.name: CategoricalDistribution(tuple(unit.labels)) for unit in self._units},
        }

    def neutral(self) -> Architecture | None:
        """Exits at even depths, if they may be moved; then no layer need be cut for them."""
        stages = self._num_stages
        shares = [(stage + 1) / stages for stage in range(stages - 1)]
        return self.depth_architecture(shares) if self._exits else None

    def landmarks(self) -> tuple[Architecture, ...]:
        """Exits at even depths, and at earlier and later ones; thin stages of equal width."""
        stages = self._num_stages
        even = [(stage + 1) / stages for stage in range(stages - 1)]
        found = [self.width_architecture(even)]
        if self._exits or len(self._units) >= stages:
            found += [
                self.depth_architecture([share**power for share in even]) for power in _POWERS
            ]
        return tuple(found)

    def identity(self, architecture: Architecture) -> Hashable:
        """Equal for decisions that come to the same: what cannot be computed yet waits anyway."""
        labelling = self._labeller.label(architecture)
        return labelling.labels, labelling.exits

    def refusal(self, architecture: Architecture) -> str | None:
        """Why these decisions make no valid network, or ``None`` if they do.

        Raises:
            ValueError: A decision is missing or unknown.
        """
        return self._labeller.label(architecture).refusal

    def build(
        self, architecture: Architecture, weights: MaskedNetwork | None = None
    ) -> MultiStageNetwork:
        """A new network of ordinary layers, in evaluation mode.

        Args:
            architecture: The decisions.
            weights: Where its weights come from, a network that ``masked()`` of this space made; by
                default the base's.

        Raises:
            ValueError: The architecture is refused, or a decision is missing or unknown.
        """
        labelling = self._accepted(architecture)
        source = weights or self._pristine()
        stages = []
        for index, plan in enumerate(self._plan(labelling)):
            stage = Stage(plan, _copy(source.preprocess))
            with torch.no_grad():
                load_stage(stage, plan, self._graph, source, index, labelling.exits[index])
            stages.append(stage)
        return MultiStageNetwork(stages).eval()

    def masked(self) -> MaskedNetwork:
        """A new network of shared weights, the base's, that answers as any architecture."""
        return MaskedNetwork(self._graph, _copy(self._preprocess), self._accepted, self._num_stages)

    def cost(self, architecture: Architecture) -> tuple[int, ...]:
        """Multiply-adds that each stage adds, exits included."""
        return _costs.per_stage(
            self._graph, self._accepted(architecture), self._num_stages, "multiply_adds"
        )

    def parameters(self, architecture: Architecture) -> tuple[int, ...]:
        """Trainable parameters that each stage adds, exits included."""
        return _costs.per_stage(
            self._graph, self._accepted(architecture), self._num_stages, "parameters"
        )

    def relaxed(self) -> RelaxedTransform:
        """A new network of shared weights, the base's, that answers as a mixture of all.

        Raises:
            ValueError: Exits may be moved, which cannot be mixed.
        """
        if self._exits:
            raise ValueError("places of exits cannot be mixed; make the space with exit_places=0")
        return RelaxedTransform(self.masked(), self._graph, self._units, self._num_stages)

    def blocks(self, architecture: Architecture) -> tuple[tuple[_blocks.OperatorBlock, ...], ...]:
        """The blocks of each stage: a layer, what feeds it and what follows it."""
        labelling = self._accepted(architecture)
        cut = []
        for plan in self._plan(labelling):
            tensors = {t for step in plan.steps for t in (*step.inputs, step.output)}
            shapes = {tensor: self._shape(tensor, labelling) for tensor in tensors}
            cut.append(_blocks.cut(plan.steps, shapes))
        return tuple(cut)

    def static_architecture(self) -> Architecture:
        """Everything in stage 0: the base itself, and a valid network for one stage only."""
        return self._with_exits({unit.name: next(iter(unit.labels)) for unit in self._units})

    def width_architecture(self, shares: Sequence[float]) -> Architecture:
        """Thin stages of full depth: every unit is cut alike.

        Args:
            shares: For each stage but the last, the part of every unit's channels that is there
                by then, rising, such as ``(0.5,)`` or ``(0.25, 0.5)``.

        Raises:
            ValueError: The shares are not rising parts, one for each stage but the last.
        """
        _corners.check_shares(shares, self._num_stages)
        return self._with_exits(_corners.cut_alike(self._units, shares))

    def narrow_architecture(self, share: float) -> Architecture:
        """A first stage of full depth with a share of every unit's channels.

        The other stages have the rest between them, whatever part of it each.

        Args:
            share: Of the channels, between 0 and 1; each unit has what is nearest to it, less the
                channels of which a padded shortcut brings a part that is left out.
        """
        return self._with_exits(_corners.narrow(self._units, share))

    def depth_architecture(self, shares: Sequence[float]) -> Architecture:
        """Exits at different depths: nothing is cut, and stages follow one another.

        If exits may be moved, they hang at places; otherwise every unit lies whole in one stage.

        Args:
            shares: For each stage but the last, the part of the base's multiply-adds that is spent
                by its end, rising, such as ``(0.5,)`` or ``(0.25, 0.5)``.

        Raises:
            ValueError: The shares are not rising parts, one for each stage but the last, or there
                are fewer places, or units, than it takes.
        """
        _corners.check_shares(shares, self._num_stages)
        if not self._exits:
            return _corners.whole_units(self._units, self._graph, shares)
        places = [place for place in self._places.values() if place is not None]
        names = _corners.nearest_places(places, shares)
        return {**self.static_architecture(), **dict(zip(self._exits, names, strict=True))}

    def _with_exits(self, units: Mapping[str, str]) -> Architecture:
        return {**dict.fromkeys(self._exits, _places.END), **units}

    def _accepted(self, architecture: Architecture) -> Labelling:
        labelling = self._labeller.label(architecture)
        if labelling.refusal is not None:
            raise ValueError(f"the architecture is refused: {labelling.refusal}")
        return labelling

    def _pristine(self) -> MaskedNetwork:
        if self._base is None:
            self._base = self.masked().eval()
        return self._base

    def _plan(self, labelling: Labelling) -> tuple[_steps.StagePlan, ...]:
        return _plan.plan(self._graph, labelling, summed=self._carry == "sum")

    def _shape(self, tensor: _steps.Tensor, labelling: Labelling) -> tuple[int, ...]:
        if tensor == _steps.RAW_IMAGE:
            return (1, 3, *self._image_shape)
        if tensor.node == _steps.LOGITS:
            return (1, self._graph.classes)
        if isinstance(tensor, _steps.Selected):
            channels = len(tensor.channels)
        else:
            counts = _labels.counts(labelling.labels[tensor.node], self._num_stages)
            channels = sum(counts[tensor.first : tensor.last + 1])
        return (1, channels, *self._graph.nodes[tensor.node].shape[1:])


def _copy(preprocess: Preprocess) -> Preprocess:
    copied = Preprocess()
    copied.load_state_dict(preprocess.state_dict())
    return copied
