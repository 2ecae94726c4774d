"""see_image: what the network takes, and where the points of the file are in it."""

import numpy as np
import pytest
import torch
from PIL import Image

from attnconv.data import decode_image, prepare_image
from attnconv.explain import see_image

META = {"channels": 3, "image_size": [8, 8], "resize_ratio": 1.25, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))


def test_it_is_prepared_as_predict_does(photo, tmp_path):
    photo.save(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png", 3)
    for given in (photo, decoded, Image.open(tmp_path / "a.png")):
        seen = see_image(given, META)
        assert torch.equal(seen.prepared, prepare_image(decoded, META))
        again = (seen.pixels - torch.tensor(META["mean"])[:, None, None]) / torch.tensor(META["std"])[:, None, None]
        torch.testing.assert_close(seen.prepared, again)
        assert seen.size == (20, 40)


def test_a_rotated_photograph_is_held_upright(photo, tmp_path):
    exif = photo.getexif()
    exif[0x0112] = 6  # a quarter turn
    photo.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        seen = see_image(turned, META)
        assert seen.size == (40, 20)
        assert turned.size == (40, 20)  # columns first, and as it was given
    assert torch.equal(seen.prepared, prepare_image(decode_image(tmp_path / "turned.png", 3), META))


def test_grey_of_colours(photo):
    seen = see_image(photo, {**META, "channels": 1, "mean": [0.5], "std": [0.2]})
    assert seen.pixels.shape == (1, 8, 8)


def test_points_of_the_file(photo):
    """20 x 40 becomes 10 x 20, of which the middle 8 x 8 is left: 2 pixels a pixel, from row 2 and column 12 on."""
    seen = see_image(photo, META)
    assert seen.point((2, 12)) == (0, 0)
    assert seen.point((17, 27)) == (7, 7)
    assert seen.point((9, 20)) == (3, 4)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ((20, 0), "the point must lie in the image of 20 x 40 pixels, got 20,0"),
        ((0, -1), "the point must lie in the image of 20 x 40 pixels, got 0,-1"),
        ((1, 12), "1,12 is cut away .* of its 20 x 40 pixels, rows 2 to 17 and columns 12 to 27 are left"),
        ((2, 28), "2,28 is cut away before the network sees the image"),
    ],
)
def test_points_that_the_network_does_not_see(photo, point, message):
    with pytest.raises(ValueError, match=message):
        see_image(photo, META).point(point)


@pytest.mark.parametrize(
    ("size", "middle", "share", "remark"),
    [
        ((20, 40), (10, 20), 0.32, "the network sees 32 % of this photo: rows 2 to 17, columns 12 to 27"),
        ((21, 21), (10, 10), 0.66, ""),
        ((20, 4000), (10, 2000), 0.0032, "the network sees 0.3 % of this photo: rows 2 to 17, columns 1992 to 2007"),
    ],
)
def test_the_part_that_is_seen(size, middle, share, remark):
    seen = see_image(Image.new("RGB", size[::-1]), META)
    assert seen.middle == middle
    assert seen.share == pytest.approx(share, rel=0.05)
    assert seen.remark == remark
    assert seen.drawn == (seen.view.box() if remark else ((0, 20), (0, 20)))


def test_the_middle_is_seen_of_narrow_images_too():
    middle = see_image(Image.new("RGB", (1, 700)), {**META, "image_size": [32, 32], "resize_ratio": 1.0}).middle
    assert middle == (349, 0)
    with pytest.raises(ValueError, match="the network sees no whole pixel of an image of 2247 x 1 pixels"):
        see_image(Image.new("RGB", (1, 2247)), {**META, "image_size": [32, 32]})


def test_an_image_that_breaks_off(photo, tmp_path):
    photo.save(tmp_path / "a.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:1500])
    with Image.open(tmp_path / "half.png") as half, pytest.raises(ValueError, match="cannot decode image given: "):
        see_image(half, META)


def test_an_image_that_is_too_large(monkeypatch, photo):
    monkeypatch.setattr("attnconv.data.decode.MAX_PIXELS", 799)
    with pytest.raises(ValueError, match="cannot decode image given: it has more than"):
        see_image(photo, META)
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        see_image(photo, {**META, "channels": 2})
