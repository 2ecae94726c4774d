"""Decode one image file into a uint8 tensor, whatever its format, colours and rotation.

Letters: C channels, H rows, W columns.
"""

import contextlib
import functools
import importlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from attnconv import checks, files

if TYPE_CHECKING:
    from PIL.Image import Image

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

# Pillow's names of what is opened. The content says which of them a file is, whatever its name; some of Pillow's other
# formats start programs of the machine, as EPS does Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
HEIF = "HEIF"  # HEIC too, where pillow-heif is installed

JPEG_START = b"\xff\xd8\xff"
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}  # chunks beside the pixels, of which Pillow reads a megabyte at most
MAX_BYTES = 2**30  # of a file: those of MAX_PIXELS in four colours of 16 bits

# An image of more pixels is read at a half, a quarter or an eighth of its size if it is a JPEG file of one scan, else
# refused: as uint8 in three colours it takes 400 MB in each process that decodes.
MAX_PIXELS = 2**27
TOO_LARGE = f"it has more than {MAX_PIXELS:,} pixels; make it smaller, or a baseline JPEG file, read at a reduced size"
TOO_LARGE_SCANS = f"it has more than {MAX_PIXELS:,} pixels in several scans; make it smaller, or a baseline JPEG file"
ORIENTATION = 0x0112  # of EXIF: rows and columns are exchanged from 5 on, and then these axes of (C, H, W) flipped
FLIPS = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}


def decode_image(path: str | Path, channels: int) -> Tensor:
    """Decode the image at ``path``, upright (EXIF), without transparency, the first frame of an animation.

    Args:
        path: the file.
        channels: 3 for red, green, blue; 1 for grey.
    Returns:
        (C, H, W) uint8.
    Raises:
        InputError: the file cannot be read or decoded, or has more than ``MAX_PIXELS``; the message says why.
        MissingExtraError: Pillow is not installed.
    """
    if channels not in (1, 3):
        raise checks.InputError(f"channels must be 1 or 3, got {channels!r}")
    return decode_bytes(read_bytes(path), channels, name=str(path))


def read_bytes(path: str | Path) -> np.ndarray:
    """Return a file's content, uint8; InputError if it cannot be read, is no regular file or exceeds MAX_BYTES."""
    with checks.explained(f"cannot read image {path}", OSError), files.opened(path, at_most=MAX_BYTES) as file:
        return np.fromfile(file, dtype=np.uint8)


def decode_bytes(data: np.ndarray, channels: int, *, name: str) -> Tensor:
    """Do as ``decode_image`` for a file's content (uint8), which messages call ``name``."""
    if data.size == 0:
        raise checks.InputError(f"cannot decode image {name}: the file is empty")
    checks.require("PIL", extra="train")
    with checks.explained(f"cannot decode image {name}", reason=_reason):
        try:
            return _decode(data, channels)
        except ValueError:
            if data[:8].tobytes() != PNG_START:
                raise
            return _decode(_without_texts(data), channels)


def _decode(data: np.ndarray, channels: int) -> Tensor:
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile

    jpeg, shrink = data[:3].tobytes() == JPEG_START, 1
    buffer = io.BytesIO(data)  # pyright: ignore[reportArgumentType]  a buffer as any other
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about transparency that is dropped, and about large images
        # Image.open would refuse a large JPEG file.
        with JpegImageFile(buffer) if jpeg else Image.open(buffer, formats=formats()) as image:
            pixels = image.width * image.height
            if jpeg:
                if pixels > MAX_PIXELS and not _in_one_scan(data):
                    raise ValueError(TOO_LARGE_SCANS)
                shrink = next(factor for factor in (1, 2, 4, 8) if pixels <= MAX_PIXELS * factor**2)
            elif pixels > MAX_PIXELS:
                raise ValueError(TOO_LARGE)
            if jpeg and shrink == 1 and simplejpeg is not None:
                with contextlib.suppress(Exception):  # Pillow reads some more files, and names faults better
                    return _decode_jpeg(data, image, channels)
            # The grey of a JPEG file as it is stored, which simplejpeg takes too; for others this does nothing.
            image.draft("L" if channels == 1 else None, (image.width // shrink, image.height // shrink))
            return _to_tensor(image, channels)


def _in_one_scan(data: np.ndarray) -> bool:
    """True if the first scan of a JPEG file has all components, so that it is decoded without holding it whole.

    False, too, if bytes stand between two segments, where libjpeg would search for the next one.
    """
    at, components = 2, 0
    while at + 10 <= len(data) and data[at] == 0xFF:
        mark, length = int(data[at + 1]), 256 * int(data[at + 2]) + int(data[at + 3])
        if mark == 0xFF:  # fills the space before a marker
            at += 1
            continue
        if mark < 0xC0 or 0xD0 <= mark <= 0xD9:  # no marker, or one without a length
            return False
        if mark in (0xC0, 0xC1):  # frames of sequential DCT; others, such as progressive ones, need several scans
            components = int(data[at + 9])
        if mark == 0xDA:
            return components == int(data[at + 4])
        at += 2 + length
    return False


def _reason(error: Exception) -> str:
    """Return why a decoder raised ``error``, which can be nearly anything."""
    if type(error).__name__ == "UnidentifiedImageError":  # its own text names a memory address
        return f"it is no image, or of a format unknown here (known: {', '.join(FORMATS)}, HEIC with pillow-heif)"
    if type(error).__name__ == "DecompressionBombError":  # Pillow's own limit is higher
        return TOO_LARGE
    return " ".join(str(error).split()) or type(error).__name__


def image_pixels(image: "Image", channels: int, *, name: str = "given") -> Tensor:
    """Do as ``decode_image`` for an image that Pillow has opened, which stays as it is; messages call it ``name``."""
    if channels not in (1, 3):
        raise checks.InputError(f"channels must be 1 or 3, got {channels!r}")
    with checks.explained(f"cannot decode image {name}", reason=_reason):  # it may be decoded only now
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(TOO_LARGE)
        return _to_tensor(image.copy(), channels)


def is_image(file: BinaryIO) -> bool:
    """True if ``file`` begins with an image's header, whatever its name."""
    from PIL import Image

    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        with Image.open(file, formats=formats()):
            return True
    return False


def formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are read here."""
    return (*FORMATS, HEIF) if reads_heic() else FORMATS


@functools.cache
def reads_heic() -> bool:
    """True if pillow-heif is installed, whose format Pillow knows from then on."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
        return True
    return False


def _decode_jpeg(data: np.ndarray, header: "Image", channels: int) -> Tensor:
    """Decode by simplejpeg, to Pillow's pixels in about half the time; any error if it cannot."""
    pixels = torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB" if channels == 3 else "GRAY"))  # pyright: ignore[reportOptionalMemberAccess]
    image = pixels.permute(2, 0, 1)  # (C, H, W), stored as (H, W, C)
    orientation = header.getexif().get(ORIENTATION, 1)
    if orientation in FLIPS:
        image = (image.transpose(1, 2) if orientation > 4 else image).flip(FLIPS[orientation])
    return image


def _without_texts(data: np.ndarray) -> np.ndarray:
    """Return a PNG file's bytes without its texts and colour profile, which are no part of its pixels."""
    kept, at = [data[:8]], 8
    while at + 12 <= data.size:
        end = at + 12 + int.from_bytes(data[at : at + 4].tobytes())
        if data[at + 4 : at + 8].tobytes() not in PNG_TEXTS:
            kept.append(data[at:end])
        at = end
    return np.concatenate(kept)


def _to_tensor(image, channels: int) -> Tensor:
    """Turn Pillow's image upright and into 8 bits: (C, H, W), stored as (H, W, C), without a needless copy."""
    from PIL import ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    mode = "RGB" if channels == 3 else "L"
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def _to_8_bits(image):
    """Scale a grey image of 16 bits; Pillow would clip everything above 255 to white."""
    from PIL import Image

    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError("it holds 32-bit numbers, whose range is unknown; convert it to 8 or 16 bits")
    return Image.fromarray((pixels >> 8).astype(np.uint8))
