"""The static transform: the channels of every layer distributed over the stages."""

from offramp_search.spaces.static_transform._head import ExitHead
from offramp_search.spaces.static_transform._masked import MaskedNetwork
from offramp_search.spaces.static_transform._space import StaticTransform

__all__ = ["ExitHead", "MaskedNetwork", "StaticTransform"]
