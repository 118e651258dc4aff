"""How convolutions read the carry: as asked, or whichever measures faster."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from offramp._files import write_atomically
from offramp.errors import DataError
from offramp_search.pipeline._space import make_static_transform
from offramp_search.pipeline._supernet import random_architecture

if TYPE_CHECKING:
    from offramp_search.bases import Base
    from offramp_search.devices import LatencyTable
    from offramp_search.pipeline._context import Context
    from offramp_search.spaces import Architecture, Block, StaticTransform

__all__ = ["Carry", "choose_carry"]

Carry = Literal["concatenate", "sum"]

_RANDOM = 2
_FILE = "carry.json"


class _Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured, in milliseconds over all blocks that differ, and taken."""

    carry: Carry
    concatenate_ms: float
    sum_ms: float


def choose_carry(context: Context, base: Base, table: LatencyTable) -> Carry:
    """The carry of the settings; for ``fastest`` both are measured, once for a run.

    Equal shares of all layers in all stages and two random architectures stand for the space. Of
    them only those blocks are measured that the two ways do not have in common, each counted as
    often as it occurs.

    Raises:
        DataError: What an earlier measurement left in the folder is damaged.
        DeviceError: A block cannot be measured, or a recorded table lacks it.
    """
    asked = context.settings.carry
    if asked != "fastest":
        return asked
    if context.settings.space != "static_transform":
        return "concatenate"  # cells have no such choice
    path = context.folder / _FILE
    if path.exists():
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Choice).carry
        except msgspec.DecodeError as error:
            raise DataError(f"{path} is damaged ({error}); delete it") from error
    spaces: dict[Carry, StaticTransform] = {
        "concatenate": make_static_transform(context, base, "concatenate"),
        "sum": make_static_transform(context, base, "sum"),
    }
    stages = context.settings.num_stages
    some = spaces["concatenate"]
    drawn = np.random.default_rng([context.settings.seed, 2])
    architectures = [
        some.width_architecture([stage / stages for stage in range(1, stages)]),
        *(random_architecture(some, drawn) for _ in range(_RANDOM)),
    ]
    # The closest to equal shares may be refused; random ones never are.
    architectures = [one for one in architectures if some.refusal(one) is None]
    blocks = {carry: _count(space, architectures) for carry, space in spaces.items()}
    alone = {
        "concatenate": blocks["concatenate"] - blocks["sum"],
        "sum": blocks["sum"] - blocks["concatenate"],
    }
    with context.reporter.progress("Measuring carries") as report:
        table.require([*alone["concatenate"], *alone["sum"]], progress=report)
    taken = {
        carry: table.predict([list(counted.elements())])[0].ms for carry, counted in alone.items()
    }
    faster: Carry = "sum" if taken["sum"] < taken["concatenate"] else "concatenate"
    choice = _Choice(carry=faster, concatenate_ms=taken["concatenate"], sum_ms=taken["sum"])
    write_atomically(path, msgspec.json.format(msgspec.json.encode(choice), indent=2))
    context.reporter.say(
        f"carry: {faster}; blocks of {len(architectures)} architectures take "
        f"{choice.concatenate_ms:.3f} ms concatenated and {choice.sum_ms:.3f} ms summed"
    )
    return faster


def _count(space: StaticTransform, architectures: list[Architecture]) -> Counter[Block]:
    return Counter(
        block
        for architecture in architectures
        for stage in space.blocks(architecture)
        for block in stage
    )
