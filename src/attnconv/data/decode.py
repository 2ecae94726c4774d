"""Decode one image file into a uint8 tensor, whatever its format, colours and rotation.

Letters: C channels, H rows, W columns.
"""

import contextlib
import functools
import importlib
import io
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from attnconv import checks, files

if TYPE_CHECKING:
    from PIL.Image import Image

JPEG_START = b"\xff\xd8\xff"

# Pillow's names of what is opened. A file's content says which of them it is, whatever the file is called; of Pillow's
# other formats some start programs of the machine, as EPS does Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
HEIC = "HEIC"  # read where pillow-heif is installed
HEIF_PLUGIN = "HEIF"  # its name in Pillow
INSTALL_HEIF = "HEIC is read where pillow-heif is installed: pip install pillow-heif"

# How the files begin, in the order in which they are compared.
STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
)
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}  # bytes of the second header, which begins with this number
PPM_HEAD = re.compile(rb"P[1-6]\s+[\d#]")  # of text that begins so, few go on with a number
HEAD = 64  # bytes that tell a format

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}  # chunks beside the pixels, of which Pillow reads a megabyte at most
MAX_BYTES = 2**30  # of a file: those of MAX_PIXELS in four colours of 16 bits

# An image of more pixels is read at a half, a quarter or an eighth of its size if it is a JPEG file, else refused: as
# uint8 in three colours it takes 400 MB in each process that decodes.
MAX_PIXELS = 2**27
TOO_LARGE = f"it has more than {MAX_PIXELS:,} pixels; make it smaller, or a JPEG file, which is read at a reduced size"
LARGE_JPEG = 2**18  # bytes; a smaller file cannot hold so many pixels, since 8 x 8 of them take a bit at least
ORIENTATION = 0x0112  # of EXIF: rows and columns are exchanged from 5 on, and then these axes of (C, H, W) flipped
FLIPS = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}
EXIF_REACH = 2**16  # bytes; EXIF stands in one of the first segments, none of which is longer


def decode_image(path: str | Path, channels: int) -> Tensor:
    """Read the image at ``path`` upright (EXIF), transparency dropped, of an animation the first frame.

    Args:
        path: the file.
        channels: 3 for red, green, blue; 1 for grey.
    Returns:
        (C, H, W) uint8.
    Raises:
        InputError: the file cannot be read or decoded, or has more than ``MAX_PIXELS``; the message names it and says
            why.
        MissingExtraError: Pillow is not installed.
    """
    if channels not in (1, 3):
        raise checks.InputError(f"channels must be 1 or 3, got {channels!r}")
    return decode_bytes(read_bytes(path), channels, name=str(path))


def read_bytes(path: str | Path) -> np.ndarray:
    """Return the content of a file, uint8.

    Raises:
        InputError: it cannot be read, is no regular file, or is larger than MAX_BYTES.
    """
    try:
        with files.opened(path, at_most=MAX_BYTES) as file:
            return np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise checks.InputError(f"cannot read image {path}: {error.strerror or error}") from None


def decode_bytes(data: np.ndarray, channels: int, *, name: str) -> Tensor:
    """Do as ``decode_image``, of a file's content (uint8); messages call it ``name``."""
    if data.size == 0:
        raise checks.InputError(f"cannot decode image {name}: the file is empty")
    # Decoders raise nearly anything on a broken file (OSError, SyntaxError, struct.error, their own bomb warnings).
    jpeg = data[:3].tobytes() == JPEG_START
    try:
        shrink = _shrink(*_open_jpeg(data).size) if jpeg and data.size >= LARGE_JPEG else 1
        if jpeg and shrink == 1:
            with contextlib.suppress(Exception):  # Pillow reads some more files, and says better what is wrong
                return _decode_jpeg(data, channels)
        try:
            return _decode_any(data, channels, shrink)
        except ValueError:
            if data[:8].tobytes() != PNG_START or (bare := _without_texts(data)).size == data.size:
                raise
            return _decode_any(bare, channels, shrink)
    except checks.MissingExtraError:  # nothing is wrong with the file
        raise
    except Exception as error:
        raise checks.InputError(f"cannot decode image {name}: {_reason(error)}") from error


def image_pixels(image: "Image", channels: int, *, name: str = "given") -> Tensor:
    """Do as ``decode_image``, of an image that Pillow has opened, which stays as it is; messages call it ``name``."""
    if channels not in (1, 3):
        raise checks.InputError(f"channels must be 1 or 3, got {channels!r}")
    try:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(TOO_LARGE)
        return _to_tensor(image.copy(), channels)
    except Exception as error:  # of what is decoded only now
        raise checks.InputError(f"cannot decode image {name}: {_reason(error)}") from error


def count_pixels(file: BinaryIO) -> int:
    """Return the pixels of the image in ``file``, from its header alone; 0 if unreadable or more than MAX_PIXELS."""
    from PIL import Image

    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        with Image.open(file, formats=FORMATS) as image:
            return count if (count := image.width * image.height) <= MAX_PIXELS else 0
    return 0


def format_of(head: bytes) -> str | None:
    """Return which of FORMATS, or HEIC, a file is that begins with ``head``, its first HEAD bytes; None of others."""
    for start, name in STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in BMP_HEADERS:
        return "BMP"
    if PPM_HEAD.match(head):
        return "PPM"
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4]), len(head))
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
        return "AVIF" if brands & AVIF_BRANDS else HEIC if brands & HEIC_BRANDS else None
    return None


@functools.cache
def reads_heic() -> bool:
    """True if pillow-heif is installed; Pillow knows its formats from then on."""
    with contextlib.suppress(ImportError):
        heif = importlib.import_module("pillow_heif")
        heif.register_heif_opener()
        return True
    return False


@functools.cache
def _simplejpeg() -> ModuleType | None:
    with contextlib.suppress(ImportError):
        return importlib.import_module("simplejpeg")
    return None


def _decode_jpeg(data: np.ndarray, channels: int) -> Tensor:
    """Decode by simplejpeg, to Pillow's pixels in about half the time; any error if it cannot."""
    fast = _simplejpeg()
    if fast is None:
        raise ValueError("simplejpeg is not installed")
    pixels = torch.from_numpy(fast.decode_jpeg(data, "RGB" if channels == 3 else "GRAY"))
    image = pixels.permute(2, 0, 1)  # (C, H, W), stored as (H, W, C)
    if b"Exif\0" in data[:EXIF_REACH].tobytes():
        orientation = _open_jpeg(data).getexif().get(ORIENTATION, 1)
        if orientation in FLIPS:
            image = (image.transpose(1, 2) if orientation > 4 else image).flip(FLIPS[orientation])
    return image


def _open_jpeg(data: np.ndarray):
    """Read the header, without Pillow's own limit on pixels, which `Image.open` applies."""
    checks.require("PIL", extra="train")
    from PIL.JpegImagePlugin import JpegImageFile

    return JpegImageFile(io.BytesIO(data))  # pyright: ignore[reportArgumentType]  a buffer as any other


def _shrink(width: int, height: int) -> int:
    """Return the factor of 1, 2, 4 or 8 that leaves at most MAX_PIXELS; 8 suffices for any JPEG file there can be."""
    return next(factor for factor in (1, 2, 4, 8) if width * height <= MAX_PIXELS * factor**2)


def _decode_any(data: np.ndarray, channels: int, shrink: int) -> Tensor:
    """Decode by Pillow; a JPEG file at 1/``shrink`` of its sides, without the full image in memory."""
    checks.require("PIL", extra="train")
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about transparency that is dropped, and about large images
        buffer = io.BytesIO(data)  # pyright: ignore[reportArgumentType]
        with (
            _open_jpeg(data) if shrink > 1 else Image.open(buffer, formats=image_formats(data[:HEAD].tobytes())) as file
        ):
            if shrink == 1 and file.width * file.height > MAX_PIXELS:
                raise ValueError(TOO_LARGE)
            # Of a JPEG file grey as it is stored, which simplejpeg takes too; of others this does nothing.
            file.draft("L" if channels == 1 else None, (file.width // shrink, file.height // shrink))
            return _to_tensor(file, channels)


def image_formats(head: bytes) -> tuple[str, ...]:
    """Return what Pillow may take a file for that begins with ``head``; ValueError if that needs pillow-heif."""
    if format_of(head) != HEIC:
        return FORMATS
    if not reads_heic():
        raise ValueError(INSTALL_HEIF)
    return (HEIF_PLUGIN,)


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


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":  # Pillow's; its own text names a memory address
        return f"it is no image, or of a format unknown here (known: {', '.join(FORMATS)})"
    if type(error).__name__ == "DecompressionBombError":  # Pillow's own limit lies higher
        return TOO_LARGE
    return " ".join(str(error).split()) or type(error).__name__
