"""Engines that run a program, one module each, behind one interface."""

from offramp.runtimes._base import BoundProgram, BoundStage, Runtime
from offramp.runtimes._choice import choose_runtime, describe_runtime, installed_runtimes
from offramp.runtimes._first_load import SelfTest, try_isolated
from offramp.runtimes._litert import LiteRTRuntime
from offramp.runtimes._litert_engine import LiteRTEngine
from offramp.runtimes._open import open_runtime
from offramp.runtimes._self_test import SelfTestResult, logits_tolerance, self_test
from offramp.runtimes._shim import build_shim, find_shim

__all__ = [
    "BoundProgram",
    "BoundStage",
    "LiteRTEngine",
    "LiteRTRuntime",
    "Runtime",
    "SelfTest",
    "SelfTestResult",
    "build_shim",
    "choose_runtime",
    "describe_runtime",
    "find_shim",
    "installed_runtimes",
    "logits_tolerance",
    "open_runtime",
    "self_test",
    "try_isolated",
]
