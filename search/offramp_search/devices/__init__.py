"""Devices, one module each, behind one interface."""

from offramp_search.devices._base import Device

__all__ = ["Device"]
