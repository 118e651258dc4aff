"""Static CNNs to start from, one module for each family."""

from offramp_search.bases._base import Base
from offramp_search.bases._load import BASES, load_base

__all__ = ["BASES", "Base", "load_base"]
