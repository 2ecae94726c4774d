"""Data sets and loaders: small sets that stay on the device, and folders of images decoded as they are needed.

``torchvision``, ``PIL`` and ``sklearn`` are imported when they are used, so this import costs no more than torch.
"""

from attnconv.data.augment import Augmentation
from attnconv.data.decode import decode_image
from attnconv.data.image_data import ImageData
from attnconv.data.load import DATA_SETS, load_data
from attnconv.data.order import Batch
from attnconv.data.view import prepare_image

__all__ = ["DATA_SETS", "Augmentation", "Batch", "ImageData", "decode_image", "load_data", "prepare_image"]
