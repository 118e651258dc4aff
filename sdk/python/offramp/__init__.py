"""Offramp: image classifiers that answer easy images early, on the device.

from offramp import DynamicClassifier

with DynamicClassifier.load("flowers.bundle") as classifier:
print(classifier.predict("rose.jpg").label)
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offramp.bundle import Bundle, Policy
    from offramp.classifier import Category, DynamicClassifier, LiveClassifier, Prediction
    from offramp.errors import OfframpError
    from offramp.governor import GovernedClassifier
    from offramp.latency import Latency

__all__ = [
    "Bundle",
    "Category",
    "DynamicClassifier",
    "GovernedClassifier",
    "Latency",
    "LiveClassifier",
    "OfframpError",
    "Policy",
    "Prediction",
    "__version__",
]

__version__ = version("offramp")

# Loaded when first asked for, so that `import offramp` costs next to nothing.
_HOMES = {
    "Bundle": "offramp.bundle",
    "Category": "offramp.classifier",
    "DynamicClassifier": "offramp.classifier",
    "GovernedClassifier": "offramp.governor",
    "Latency": "offramp.latency",
    "LiveClassifier": "offramp.classifier",
    "OfframpError": "offramp.errors",
    "Policy": "offramp.bundle",
    "Prediction": "offramp.classifier",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'offramp' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
