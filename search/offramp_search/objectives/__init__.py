"""Objectives that need no labels, one module each, behind one interface."""

from offramp_search.objectives._base import Examples, Objective
from offramp_search.objectives._colorization import Colorization
from offramp_search.objectives._jigsaw import Jigsaw
from offramp_search.objectives._make import OBJECTIVES, ObjectiveName, make_objective
from offramp_search.objectives._network import (
    ObjectiveNetwork,
    ReadableNetwork,
    arranged_reads,
    make_heads,
)
from offramp_search.objectives._rotation import Rotation

__all__ = [
    "OBJECTIVES",
    "Colorization",
    "Examples",
    "Jigsaw",
    "Objective",
    "ObjectiveName",
    "ObjectiveNetwork",
    "ReadableNetwork",
    "Rotation",
    "arranged_reads",
    "make_heads",
    "make_objective",
]
