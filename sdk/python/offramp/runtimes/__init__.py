"""Engines that run a program, one module each, behind one interface."""

from offramp.runtimes._base import Runtime
from offramp.runtimes._litert import LiteRTRuntime
from offramp.runtimes._litert_engine import LiteRTEngine
from offramp.runtimes._open import open_runtime

__all__ = ["LiteRTEngine", "LiteRTRuntime", "Runtime", "open_runtime"]
