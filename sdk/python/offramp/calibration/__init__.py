"""Thresholds that carry a proof: temperatures, a path of candidates, and the tests along it."""

from offramp.calibration._abstention import Abstention, find_abstention
from offramp.calibration._betting import certifies, log_wealth, minimum_samples, smallest_limit
from offramp.calibration._binomial import (
    binomial_cdf,
    certifies_rate,
    fewest_samples,
    most_events,
    order_statistic,
    smallest_rate,
)
from offramp.calibration._calibrate import calibrate
from offramp.calibration._cost_aware import cost_aware_path, isotonic_falling
from offramp.calibration._latency import ExitLatency, read_latency, student_quantile
from offramp.calibration._path import CandidatePath, candidate_path
from offramp.calibration._promises import Promises
from offramp.calibration._recheck import CertificateCheck, Verdict, recheck
from offramp.calibration._report import Alternative, CalibrationReport, ClassReport, ExitReport
from offramp.calibration._split import Parts, images_needed, split_images
from offramp.calibration._temperature import fit_temperature

__all__ = [
    "Abstention",
    "Alternative",
    "CalibrationReport",
    "CandidatePath",
    "CertificateCheck",
    "ClassReport",
    "ExitLatency",
    "ExitReport",
    "Parts",
    "Promises",
    "Verdict",
    "binomial_cdf",
    "calibrate",
    "candidate_path",
    "certifies",
    "certifies_rate",
    "cost_aware_path",
    "fewest_samples",
    "find_abstention",
    "fit_temperature",
    "images_needed",
    "isotonic_falling",
    "log_wealth",
    "minimum_samples",
    "most_events",
    "order_statistic",
    "read_latency",
    "recheck",
    "smallest_limit",
    "smallest_rate",
    "split_images",
    "student_quantile",
]
