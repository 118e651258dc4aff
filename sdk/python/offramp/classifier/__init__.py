"""The classifier that stops early, and what it answers."""

from offramp.classifier._classifier import DynamicClassifier
from offramp.classifier._limits import StageLimits
from offramp.classifier._prediction import Category, Prediction, Reason

__all__ = ["Category", "DynamicClassifier", "Prediction", "Reason", "StageLimits"]
