"""Devices, one module each, behind one interface, and the tables of what was measured on them."""

from offramp_search.devices._base import Device
from offramp_search.devices._file import record_table
from offramp_search.devices._host import HostDevice
from offramp_search.devices._network import module_key, network_key, stages_as_blocks
from offramp_search.devices._recorded import RecordedDevice
from offramp_search.devices._table import CALL, LatencyTable

__all__ = [
    "CALL",
    "Device",
    "HostDevice",
    "LatencyTable",
    "RecordedDevice",
    "module_key",
    "network_key",
    "record_table",
    "stages_as_blocks",
]
