"""Decode one image file into a uint8 tensor, whatever its format, colours and rotation.

Letters: C channels, H rows, W columns.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attnconv import checks

JPEG_START = b"\xff\xd8\xff"


def decode_image(path: str | Path, channels: int) -> Tensor:
    """Read the image at ``path`` upright (EXIF), transparency dropped, of an animation the first frame.

    Args:
        path: the file.
        channels: 3 for red, green, blue; 1 for grey.
    Returns:
        (C, H, W) uint8.
    Raises:
        InputError: the file cannot be read or decoded; the message names it and says why.
    """
    if channels not in (1, 3):
        raise checks.InputError(f"channels must be 1 or 3, got {channels!r}")
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise checks.InputError(f"cannot read image {path}: {error.strerror or error}") from None
    if data.size == 0:
        raise checks.InputError(f"cannot decode image {path}: the file is empty")
    if data[:3].tobytes() == JPEG_START:
        try:
            return _decode_jpeg(data, channels)
        except Exception:  # Pillow reads some files that it cannot, and says better what is wrong with the others
            pass
    # Decoders raise nearly anything on a broken file (OSError, SyntaxError, struct.error, their own bomb warnings).
    try:
        return _decode_any(data, channels)
    except Exception as error:
        raise checks.InputError(f"cannot decode image {path}: {_reason(error)}") from error


def _decode_jpeg(data: np.ndarray, channels: int) -> Tensor:
    """torchvision's decoder: the same pixels as Pillow's in half the time."""
    import torchvision.io

    mode = torchvision.io.ImageReadMode.RGB if channels == 3 else torchvision.io.ImageReadMode.GRAY
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is to move to TorchCodec; until then it is here
        image = torchvision.io.decode_jpeg(torch.from_numpy(data), mode, apply_exif_orientation=True)
    assert isinstance(image, Tensor)  # a list goes with a list of files
    return image


def _decode_any(data: np.ndarray, channels: int) -> Tensor:
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about transparency that is dropped, and about large images
        with Image.open(io.BytesIO(data.tobytes())) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith(("I", "F")):
                image = _to_8_bits(image)
            pixels = np.array(image.convert("RGB" if channels == 3 else "L"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1).contiguous()  # (C, H, W)


def _to_8_bits(image):
    """A grey image of 16 bits, scaled; Pillow would clip everything above 255 to white."""
    from PIL import Image

    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError("it holds 32-bit numbers, whose range is unknown; convert it to 8 or 16 bits")
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":  # Pillow's; its own text names a memory address
        return "it is no image, or of a format unknown here"
    return " ".join(str(error).split()) or type(error).__name__
