"""Images: decoding, the resize rule, and labelled folders."""

from offramp.images._folder import LabelledFolder
from offramp.images._geometry import Region, check_rotation, crop_box, region_box
from offramp.images._load import ImageLike, load_image
from offramp.images._resample import nearest_positions, resample, resample_weights

__all__ = [
    "ImageLike",
    "LabelledFolder",
    "Region",
    "check_rotation",
    "crop_box",
    "load_image",
    "nearest_positions",
    "region_box",
    "resample",
    "resample_weights",
]
