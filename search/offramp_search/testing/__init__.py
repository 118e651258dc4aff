"""Contract suites and fakes, for our own tests and for whoever adds a device or a sampler."""

from offramp_search.testing._devices import DeviceContract
from offramp_search.testing._engines import EngineContract, LethalEvaluator
from offramp_search.testing._fakes import FakeEvaluator, FakeSpace, write_fake_table
from offramp_search.testing._objectives import ObjectiveContract
from offramp_search.testing._samplers import SamplerContract

__all__ = [
    "DeviceContract",
    "EngineContract",
    "FakeEvaluator",
    "FakeSpace",
    "LethalEvaluator",
    "ObjectiveContract",
    "SamplerContract",
    "write_fake_table",
]
