"""For those who test an app or a runtime: a stand-in, the promises as tests, damaged input."""

from offramp.testing._bundle import BundleContract, ContractResult, run_contract
from offramp.testing._contract import RuntimeCase, RuntimeContract
from offramp.testing._fake import FakeRuntime
from offramp.testing._mutations import mutations

__all__ = [
    "BundleContract",
    "ContractResult",
    "FakeRuntime",
    "RuntimeCase",
    "RuntimeContract",
    "mutations",
    "run_contract",
]
