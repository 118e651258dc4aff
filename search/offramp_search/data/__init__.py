"""Labelled images: where they come from, and how they are split."""

from offramp_search.data._base import ImageSet, Source, SourceImages, Splits
from offramp_search.data._fashion_mnist import FashionMnist
from offramp_search.data._folder import ImageFolder
from offramp_search.data._hub import Hub, Parquet
from offramp_search.data._load import load_data, open_source
from offramp_search.data._split import Shares, split, take_stratified
from offramp_search.data._unlabelled import is_unlabelled, read_unlabelled

__all__ = [
    "FashionMnist",
    "Hub",
    "ImageFolder",
    "ImageSet",
    "Parquet",
    "Shares",
    "Source",
    "SourceImages",
    "Splits",
    "is_unlabelled",
    "load_data",
    "open_source",
    "read_unlabelled",
    "split",
    "take_stratified",
]
