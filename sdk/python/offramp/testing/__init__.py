"""For those who test an app or a runtime of their own: a stand-in, and the promises as tests."""

from offramp.testing._bundle import BundleContract, ContractResult, run_contract
from offramp.testing._contract import RuntimeCase, RuntimeContract
from offramp.testing._fake import FakeRuntime

__all__ = [
    "BundleContract",
    "ContractResult",
    "FakeRuntime",
    "RuntimeCase",
    "RuntimeContract",
    "run_contract",
]
