"""Thresholds that carry a proof: temperatures, a path of candidates, and the test along it."""

from offramp.calibration._betting import certifies, log_wealth, minimum_samples, smallest_limit
from offramp.calibration._calibrate import calibrate
from offramp.calibration._path import CandidatePath, candidate_path
from offramp.calibration._split import split_images
from offramp.calibration._temperature import fit_temperature

__all__ = [
    "CandidatePath",
    "calibrate",
    "candidate_path",
    "certifies",
    "fit_temperature",
    "log_wealth",
    "minimum_samples",
    "smallest_limit",
    "split_images",
]
