"""Files of every kind, and files that are none."""

import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from attnconv.checks import InputError, MissingExtraError
from attnconv.data import decode, decode_image

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
COLOUR = Image.fromarray(PIXELS)


def as_tensor(image: Image.Image, mode: str = "RGB") -> torch.Tensor:
    pixels = np.array(image.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.png"),
        ("RGB", "a.bmp"),
        ("RGB", "a.tiff"),
        ("RGB", "a.ppm"),
        ("RGB", "a.gif"),
        ("RGB", "a.webp"),
        ("RGB", "a.jpg"),
        ("L", "a.png"),
        ("L", "a.pgm"),
        ("L", "a.jpg"),
        ("1", "a.png"),
        ("LA", "a.png"),
        ("RGBA", "a.png"),
        ("P", "a.png"),
        ("P", "a.gif"),
        ("CMYK", "a.tif"),
        ("CMYK", "a.jpg"),
    ],
)
def test_formats_and_colours(tmp_path, mode, name, channels):
    COLOUR.convert(mode).save(tmp_path / name)
    image = decode_image(tmp_path / name, channels)
    with Image.open(tmp_path / name) as file:
        expected = as_tensor(file, "RGB" if channels == 3 else "L")
    assert (image.dtype, image.shape) == (torch.uint8, (channels, 9, 13))
    # the grey of a JPEG file is as it is stored, and simplejpeg rounds CMYK otherwise than Pillow
    torch.testing.assert_close(image.int(), expected.int(), rtol=0, atol=4 if name == "a.jpg" else 0)


def test_transparency_is_dropped_without_a_warning(tmp_path, recwarn):
    COLOUR.convert("P").save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert torch.equal(decode_image(tmp_path / "a.png", 3), as_tensor(COLOUR.convert("P")))
    assert [str(warning.message) for warning in recwarn] == []


def test_no_warning_about_a_jpeg(tmp_path, recwarn):
    COLOUR.save(tmp_path / "a.jpg")
    decode_image(tmp_path / "a.jpg", 3)
    assert [str(warning.message) for warning in recwarn] == []


def test_an_animation_gives_its_first_frame(tmp_path):
    first, second = Image.new("RGB", (13, 9), (250, 0, 0)), Image.new("RGB", (13, 9), (0, 0, 250))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert torch.equal(decode_image(tmp_path / "a.gif", 3), as_tensor(first))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff"])
def test_images_are_turned_upright(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: to be shown turned by 90 degrees clockwise
    bright_left = Image.new("L", (16, 8))
    bright_left.paste(255, (0, 0, 8, 8))
    bright_left.save(tmp_path / name, exif=exif)
    image = decode_image(tmp_path / name, 1).float()
    assert image.shape == (1, 16, 8)
    assert image[:, :8].mean() > 200
    assert image[:, 8:].mean() < 55


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name):
    pixels = np.arange(0, 65536, 600, dtype=np.uint16)[:99].reshape(9, 11)
    Image.fromarray(pixels).save(tmp_path / name)
    assert torch.equal(decode_image(tmp_path / name, 1)[0], torch.from_numpy((pixels >> 8).astype(np.uint8)))


def jpeg_cut_off(path):
    COLOUR.save(path)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("a.jpg", lambda path: path.write_bytes(b""), "the file is empty"),
        ("a.jpg", lambda path: path.write_text("no picture at all"), "it is no image, or of a format unknown here"),
        ("a.jpg", jpeg_cut_off, "image file is truncated"),
        ("a.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n and nothing more"), ""),
        ("a.tif", lambda path: Image.fromarray(PIXELS[..., 0] / np.float32(9)).save(path), "it holds 32-bit numbers"),
    ],
)
def test_a_file_that_cannot_be_decoded(tmp_path, name, write, reason):
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"^cannot decode image .*{name}: {reason}.*$") as caught:
        decode_image(tmp_path / name, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "reason"), [("none.jpg", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read(tmp_path, name, reason):
    with pytest.raises(InputError, match=f"^cannot read image .*: {reason}"):
        decode_image(tmp_path / name, 3)


def test_channels_are_one_or_three(tmp_path):
    with pytest.raises(InputError, match="channels must be 1 or 3, got 4"):
        decode_image(tmp_path / "a.png", 4)


def wide(path, **options):
    """An image that is too large by far for a limit of 1,000 pixels, bright on the left."""
    image = Image.new("L", (80, 48))
    image.paste(255, (0, 0, 40, 48))
    image.save(path, **options)


@pytest.fixture
def low_limit(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 1000)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_jpeg_above_the_limit_is_read_at_a_reduced_size(tmp_path, low_limit, channels, mode):
    wide(tmp_path / "a.jpg")
    image = decode_image(tmp_path / "a.jpg", channels).float()
    assert image.shape == (channels, 24, 40)  # 3,840 pixels / 4
    assert image[..., :20].mean() > 250
    assert image[..., 20:].mean() < 5


def test_a_jpeg_far_above_the_limit(tmp_path, low_limit, monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 60)
    wide(tmp_path / "a.jpg")
    assert decode_image(tmp_path / "a.jpg", 3).shape == (3, 6, 10)


def test_a_jpeg_at_the_limit_is_read_as_it_is(tmp_path, low_limit, monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 80 * 48)
    wide(tmp_path / "a.jpg")
    assert decode_image(tmp_path / "a.jpg", 3).shape == (3, 48, 80)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_several_scans_is_not_read_above_the_limit(tmp_path, progressive):
    """A header of few bytes, after which the decoder would hold the whole image: 5.8 GB."""
    picture = Image.new("RGB", (16, 16))
    picture.save(tmp_path / "a.jpg", progressive=progressive)
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    frame = content.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    content[frame + 5 : frame + 9] = (30000).to_bytes(2, "big") * 2
    if not progressive:  # the first of several scans, of one component
        scan = content.index(b"\xff\xda")
        content[scan : scan + 2 + 12] = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    (tmp_path / "a.jpg").write_bytes(content)
    line = "it has more than 134,217,728 pixels in several scans; make it smaller, or a baseline JPEG file"
    with pytest.raises(InputError, match=f"^cannot decode image .*: {line}$"):
        decode_image(tmp_path / "a.jpg", 3)


def test_a_byte_that_fills_the_space_before_a_marker(tmp_path, low_limit):
    wide(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content.replace(b"\xff\xc0", b"\xff\xff\xc0", 1))
    assert decode_image(tmp_path / "a.jpg", 3).shape == (3, 24, 40)


def test_such_a_byte_hides_no_scans(tmp_path, low_limit):
    """Taken for a marker, it has a length, which leads to the header of another image."""
    wide(tmp_path / "a.jpg", progressive=True)
    content = (tmp_path / "a.jpg").read_bytes()
    frame = content.index(b"\xff\xc2")
    end = frame + 2 + int.from_bytes(content[frame + 2 : frame + 4], "big")
    fake = bytes.fromhex("ffc0000b080001000101011100 ffda0008010100003f00")
    zeros = bytes(frame + 2 + 0xC200 - (end + 5))
    segment = b"\xff\xef" + (2 + len(zeros + fake)).to_bytes(2, "big") + zeros + fake
    (tmp_path / "a.jpg").write_bytes(content[:frame] + b"\xff" + content[frame:end] + segment + content[end:])
    with pytest.raises(InputError, match="it has more than 134,217,728 pixels in several scans"):
        decode_image(tmp_path / "a.jpg", 3)


def test_a_reduced_jpeg_is_turned_upright(tmp_path, low_limit):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide(tmp_path / "a.jpg", exif=exif)
    image = decode_image(tmp_path / "a.jpg", 1).float()
    assert image.shape == (1, 40, 24)
    assert image[:, :20].mean() > 250


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.tiff"])
def test_other_files_above_the_limit_are_refused(tmp_path, low_limit, name):
    wide(tmp_path / name)
    line = "it has more than 134,217,728 pixels; make it smaller, or a baseline JPEG file, read at a reduced size"
    with pytest.raises(InputError, match=f"^cannot decode image .*{name}: {line}$"):
        decode_image(tmp_path / name, 3)


def test_a_png_of_20000_by_20000_pixels_is_refused_before_it_is_decoded(tmp_path):
    """Its header alone, as a bomb of a few bytes has it; Pillow stops at it in its own words."""
    wide(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 20000, 20000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png: it has more than 134,217,728 pixels; make it smaller"):
        decode_image(tmp_path / "a.png", 3)


@pytest.mark.parametrize("shape", [(3, 20000), (20000, 3)])
def test_long_thin_images(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert torch.equal(decode_image(tmp_path / "a.png", 3), torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.slow
def test_a_jpeg_of_20000_by_20000_pixels(tmp_path):
    Image.new("L", (20000, 20000), 128).save(tmp_path / "a.jpg")
    image = decode_image(tmp_path / "a.jpg", 3)
    assert image.shape == (3, 10000, 10000)
    assert image.unique().tolist() == [128]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("orientation", [None, *range(10)])  # of EXIF; 0 and 9 mean nothing
def test_simplejpeg_gives_the_pixels_that_pillow_gives(tmp_path, monkeypatch, mode, channels, orientation):
    pytest.importorskip("simplejpeg")
    pixels, exif = np.random.default_rng(0).integers(0, 256, (45, 67, 3), dtype=np.uint8), Image.Exif()
    exif[0x0112] = orientation
    options = {} if orientation is None else {"exif": exif}
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.jpg", quality=85, **options)
    with monkeypatch.context() as alone:
        alone.setattr(decode, "_to_tensor", None)
        fast = decode_image(tmp_path / "a.jpg", channels)
    monkeypatch.setattr(decode, "simplejpeg", None)
    assert torch.equal(fast, decode_image(tmp_path / "a.jpg", channels))


@pytest.mark.parametrize("fast", [None, "simplejpeg"])
def test_pillow_decodes_a_jpeg_where_simplejpeg_is_missing_or_refuses(tmp_path, monkeypatch, fast):
    class Refuses:
        @staticmethod
        def decode_jpeg(data, colours):
            raise ValueError("not this one")

    COLOUR.save(tmp_path / "a.jpg")
    expected = decode_image(tmp_path / "a.jpg", 3)
    monkeypatch.setattr(decode, "simplejpeg", fast and Refuses)
    assert torch.equal(decode_image(tmp_path / "a.jpg", 3), expected)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_without_pillow_it_says_what_to_install(tmp_path, monkeypatch, name):
    COLOUR.save(tmp_path / name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"^this needs PIL: pip install 'attnconv\[train\]'$"):
        decode_image(tmp_path / name, 3)
