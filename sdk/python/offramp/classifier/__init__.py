"""The classifier that stops early, and what it answers."""

from offramp.classifier._base import Classifier
from offramp.classifier._classifier import DynamicClassifier
from offramp.classifier._limits import StageLimits
from offramp.classifier._live import LiveClassifier, LiveCounts
from offramp.classifier._options import PredictOptions
from offramp.classifier._prediction import Category, Prediction, Reason

__all__ = [
    "Category",
    "Classifier",
    "DynamicClassifier",
    "LiveClassifier",
    "LiveCounts",
    "PredictOptions",
    "Prediction",
    "Reason",
    "StageLimits",
]
