"""Rules of the static transform, one module for each family of operators."""

from offramp_search.spaces.static_transform._rules import _pooling as _pooling  # registers itself
from offramp_search.spaces.static_transform._rules._base import (
    Call,
    Channels,
    Operand,
    Rule,
    read_call,
)
from offramp_search.spaces.static_transform._rules._dense import DenseRule
from offramp_search.spaces.static_transform._rules._moving import (
    ChannelSliceRule,
    FlattenRule,
    PadRule,
)
from offramp_search.spaces.static_transform._rules._pointwise import (
    BatchNormRule,
    SumRule,
    UnaryRule,
)
from offramp_search.spaces.static_transform._rules._shuffle import Arranged, ShuffleRule, arrange

__all__ = [
    "Arranged",
    "BatchNormRule",
    "Call",
    "ChannelSliceRule",
    "Channels",
    "DenseRule",
    "FlattenRule",
    "Operand",
    "PadRule",
    "Rule",
    "ShuffleRule",
    "SumRule",
    "UnaryRule",
    "arrange",
    "read_call",
]
