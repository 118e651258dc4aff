"""Offramp: image classifiers that answer easy images early, on the device."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("offramp")
