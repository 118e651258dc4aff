"""Images: decoding, the resize rule, and labelled folders."""

from offramp.images._folder import LabelledFolder
from offramp.images._geometry import Region, crop_box, region_box
from offramp.images._load import ImageLike, load_image

__all__ = ["ImageLike", "LabelledFolder", "Region", "crop_box", "load_image", "region_box"]
