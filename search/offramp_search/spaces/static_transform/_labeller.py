"""From the decisions of an architecture to its labels, and the labels of the last ones kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from offramp_search.spaces.static_transform import _places
from offramp_search.spaces.static_transform._labelling import Labelling, label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offramp_search.spaces._base import Architecture
    from offramp_search.spaces.static_transform._graph import Graph
    from offramp_search.spaces.static_transform._places import Place
    from offramp_search.spaces.static_transform._units import Unit

__all__ = ["Labeller"]

_REMEMBERED = 4096
"""Labellings kept: cost, refusal, blocks and build ask for the same one in turn."""


@final
class Labeller:
    """Labels architectures.

    Args:
        graph: The base.
        units: What is cut.
        exits: The decisions that say where early exits hang, before those of the units.
        places: What they choose from, by name.
        stages: Stages of every architecture.
    """

    def __init__(
        self,
        graph: Graph,
        units: Sequence[Unit],
        exits: Sequence[str],
        places: Mapping[str, Place | None],
        stages: int,
    ) -> None:
        self._graph = graph
        self._units = units
        self._exits = exits
        self._places = places
        self._stages = stages
        self._names = (*exits, *(unit.name for unit in units))
        self._labellings: dict[tuple[str, ...], Labelling] = {}

    def label(self, architecture: Architecture) -> Labelling:
        """The labels of an architecture, refused or not.

        Raises:
            ValueError: A decision is missing or unknown.
        """
        names = self._names
        if architecture.keys() != set(names):
            missing = [name for name in names if name not in architecture]
            unknown = [name for name in architecture if name not in names]
            raise ValueError(
                f"an architecture needs exactly the decisions of its space; missing: {missing}, "
                f"unknown: {unknown}"
            )
        choices = tuple(str(architecture[name]) for name in names)
        found = self._labellings.get(choices)
        if found is None:
            if len(self._labellings) >= _REMEMBERED:
                self._labellings.clear()
            found = self._labellings[choices] = self._label(choices)
        return found

    def _label(self, choices: tuple[str, ...]) -> Labelling:
        decided: dict[int, bytes] = {}
        early = len(self._exits)
        for unit, choice in zip(self._units, choices[early:], strict=True):
            labels = unit.labels.get(choice)
            if labels is None:
                raise _unknown(unit.name, choice, unit.labels)
            decided.update(dict.fromkeys(unit.nodes, labels))
        for name, choice in zip(self._exits, choices, strict=False):
            if choice not in self._places:
                raise _unknown(name, choice, self._places)
        ends = [self._places[choice] for choice in choices[:early]]
        decided = _places.hold_back(decided, ends)
        return label(self._graph, decided, self._stages)


def _unknown(name: str, choice: str, choices: Mapping[str, object]) -> ValueError:
    return ValueError(
        f"decision {name!r} has no choice {choice!r}; one of its {len(choices)} choices is "
        f"{next(iter(choices))!r}"
    )
