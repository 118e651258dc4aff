"""Engines that run a program, one module each, behind one interface."""

from offramp.runtimes._base import Runtime

__all__ = ["Runtime"]
