"""Measuring programs: logits of all exits, latencies, and the device they were taken on."""

from offramp.profiling._device import device_record
from offramp.profiling._latency import (
    MeasuredPredictions,
    measure_predictions,
    measure_signatures,
    measure_stages,
    measure_throughput,
)
from offramp.profiling._logits import collect_logits

__all__ = [
    "MeasuredPredictions",
    "collect_logits",
    "device_record",
    "measure_predictions",
    "measure_signatures",
    "measure_stages",
    "measure_throughput",
]
