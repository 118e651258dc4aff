"""Keeping to a budget of milliseconds by switching between certified policies."""

from offramp.governor._bucket import Bucket, BucketState, advance, full
from offramp.governor._classifier import GovernedClassifier

__all__ = ["Bucket", "BucketState", "GovernedClassifier", "advance", "full"]
