"""Images: decoding, the resize rule, and labelled folders."""

from offramp.images._folder import LabelledFolder
from offramp.images._load import ImageLike, load_image
from offramp.images._resize import crop_box

__all__ = ["ImageLike", "LabelledFolder", "crop_box", "load_image"]
