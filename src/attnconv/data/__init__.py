"""Data sets and loaders: small sets that stay on the device, and image files that are decoded during training.

``torchvision``, ``PIL`` and ``sklearn`` are imported on use, so this import costs no more than torch.
"""

from attnconv.data.augment import Augmentation
from attnconv.data.batches import Batch
from attnconv.data.dataset import ForeignLoader, data_of_datasets
from attnconv.data.decode import decode_image, image_pixels
from attnconv.data.image_data import ImageData
from attnconv.data.load import DATA_SETS, load_data, register_dataset
from attnconv.data.view import View, prepare_image, view_of

__all__ = [
    "DATA_SETS",
    "Augmentation",
    "Batch",
    "ForeignLoader",
    "ImageData",
    "View",
    "data_of_datasets",
    "decode_image",
    "image_pixels",
    "load_data",
    "prepare_image",
    "register_dataset",
    "view_of",
]
