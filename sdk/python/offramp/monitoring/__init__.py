"""Watching a classifier at work: counts, confidences, latencies, drift; no labels, no images."""

from offramp.monitoring._base import PredictionLike, PredictionMonitor
from offramp.monitoring._bound import rate_upper_bound
from offramp.monitoring._confidence import CONFIDENCE_EDGES, population_stability
from offramp.monitoring._drift import DriftAlarm, log_bayes_factor
from offramp.monitoring._merge import merge
from offramp.monitoring._monitor import Monitor
from offramp.monitoring._prometheus import prometheus_text
from offramp.monitoring._sketch import LatencySketch
from offramp.monitoring._state import MonitorState, decode_state, encode_state
from offramp.monitoring._summary import DriftSummary, LatencySummary, Summary, summarize

__all__ = [
    "CONFIDENCE_EDGES",
    "DriftAlarm",
    "DriftSummary",
    "LatencySketch",
    "LatencySummary",
    "Monitor",
    "MonitorState",
    "PredictionLike",
    "PredictionMonitor",
    "Summary",
    "decode_state",
    "encode_state",
    "log_bayes_factor",
    "merge",
    "population_stability",
    "prometheus_text",
    "rate_upper_bound",
    "summarize",
]
