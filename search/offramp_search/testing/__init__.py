"""Contract suites and fakes, for our tests and for who adds a device, a sampler or a space."""

from offramp_search.testing._devices import DeviceContract
from offramp_search.testing._engines import EngineContract, LethalEvaluator
from offramp_search.testing._fakes import FakeEvaluator, FakeSpace, write_fake_table
from offramp_search.testing._objectives import ObjectiveContract
from offramp_search.testing._samplers import SamplerContract
from offramp_search.testing._spaces import SpaceContract

__all__ = [
    "DeviceContract",
    "EngineContract",
    "FakeEvaluator",
    "FakeSpace",
    "LethalEvaluator",
    "ObjectiveContract",
    "SamplerContract",
    "SpaceContract",
    "write_fake_table",
]
