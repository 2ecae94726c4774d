"""What the network sees outside training."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from attnconv.checks import InputError, InputTypeError
from attnconv.data import prepare_image, view_of
from attnconv.data.view import Normalise, fit

META = {"channels": 3, "image_size": [14, 14], "resize_ratio": 8 / 7, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 20, 31), (3, 31, 20), (1, 9, 40), (2, 3, 33, 17)])
def test_fit_is_the_usual_resize_and_centre_crop(shape):
    images = noise(*shape)
    expected = v2.Compose([v2.Resize(16, antialias=True), v2.CenterCrop(14)])(images)
    assert torch.equal(fit(images, (14, 14), 8 / 7), expected)


@pytest.mark.parametrize(("size", "resized"), [(96, 110), (64, 73)])  # of 109.7 and 73.1 pixels
def test_the_shorter_side_is_rounded(size, resized):
    images = noise(3, 150, 120)
    expected = v2.Compose([v2.Resize(resized, antialias=True), v2.CenterCrop(size)])(images)
    assert torch.equal(fit(images, (size, size), 8 / 7), expected)


@pytest.mark.parametrize("size", [(14, 14), (16, 32), (9, 5)])
def test_an_image_of_the_right_size_stays_as_it_is(size):
    images = noise(4, 3, *size)
    assert torch.equal(fit(images, size, 1.0), images)


@pytest.mark.parametrize(
    ("shape", "resized"), [((32, 64), (18, 36)), ((40, 40), (36, 36)), ((10, 90), (18, 162)), ((90, 10), (324, 36))]
)
def test_where_no_square_is_wanted_the_image_covers_it_in_its_own_shape(shape, resized):
    images = noise(2, 3, *shape)
    expected = v2.functional.center_crop(v2.functional.resize(images, list(resized), antialias=True), [16, 32])
    assert torch.equal(fit(images, (16, 32), 9 / 8), expected)


def test_normalise():
    images = noise(2, 3, 5, 7)
    mean, std = (torch.tensor(META[name], dtype=torch.float64).view(3, 1, 1) for name in ("mean", "std"))
    got = Normalise(META["mean"], META["std"])(images)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), (images.double() / 255 - mean) / std, rtol=1e-6, atol=1e-6)


def test_prepare_image():
    image = noise(3, 20, 31)
    expected = Normalise(META["mean"], META["std"])(fit(image, (14, 14), 8 / 7))
    assert torch.equal(prepare_image(image, META), expected)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (noise(1, 20, 31), InputError, r"image must be \(3, rows, columns\), got \(1, 20, 31\)"),
        (noise(2, 3, 20, 31), InputError, r"image must be \(3, rows, columns\), got \(2, 3, 20, 31\)"),
        (torch.from_numpy(np.zeros((3, 4, 5), dtype=np.float32)), InputTypeError, "image must be uint8, got torch.fl"),
    ],
)
def test_prepare_image_refuses(image, error, message):
    with pytest.raises(error, match=message):
        prepare_image(image, META)


@pytest.mark.parametrize("size", [[30000, 16], 10**6])
def test_prepare_image_takes_no_size_that_takes_the_memory(size):
    with pytest.raises(InputError, match=r"^meta's 'image_size' must be at most 4096 per side, got \d+$"):
        prepare_image(torch.zeros(3, 4, 4, dtype=torch.uint8), {**META, "image_size": size})


@pytest.mark.parametrize("shape", [(3, 20000, 2), (3, 2, 20000)])
def test_a_long_thin_image_is_not_blown_up(monkeypatch, shape):
    """At 14 pixels, 20,000 x 2 would first become 140,000 x 14."""
    from torchvision.transforms.v2 import functional

    sizes, resize = [], functional.resize
    monkeypatch.setattr(
        functional, "resize", lambda x, *args, **kwargs: sizes.append(x.numel()) or resize(x, *args, **kwargs)
    )
    images = torch.zeros(shape, dtype=torch.uint8)
    images[..., 9950:10050] = 200 if shape[2] == 20000 else 0
    images[:, 9950:10050] = 200 if shape[1] == 20000 else images[:, 9950:10050]
    assert fit(images, (14, 14), 1.0).unique().tolist() == [200]
    assert sizes == [3 * 2 * 32]


VIEWS = [
    ((20, 31), (14, 14), 8 / 7),
    ((31, 20), (14, 14), 1.0),
    ((5, 7), (16, 16), 1.0),  # enlarged
    ((32, 64), (16, 32), 9 / 8),
    ((10, 90), (16, 32), 1.0),
    ((400, 3), (14, 14), 8 / 7),  # of whose length only the middle is resized
]


@pytest.mark.parametrize(("image", "size", "ratio"), VIEWS[:-1])  # of the last, too few pixels are seen
def test_a_point_is_found_where_its_light_goes(image, size, ratio):
    """The resized picture of one bright pixel is brightest around the pixel that the view names."""
    view = view_of(image, size, ratio)
    found = 0
    (top, bottom), (left, right) = view.box()
    for row in range(top, bottom + 1, 2):
        for column in range(left, right + 1, 2):
            pixels = torch.zeros(1, *image)
            pixels[0, row, column] = 1e3
            drawn = fit(pixels, size, ratio)[0]
            seen = view.seen((row, column))
            assert seen is not None
            rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
            share = drawn / drawn.sum()
            inside = all(2 < at < n - 3 for at, n in zip(seen, size, strict=True))
            if inside:  # else part of the light is cut away
                found += 1
                centre = float((share * rows).sum()), float((share * columns).sum())
                assert abs(centre[0] - seen[0] - 0.5) <= 0.6
                assert abs(centre[1] - seen[1] - 0.5) <= 0.6
    assert found > 0


@pytest.mark.parametrize(("image", "size", "ratio"), VIEWS)
def test_the_box_holds_the_points_that_are_seen(image, size, ratio):
    view = view_of(image, size, ratio)
    seen = [(row, column) for row in range(image[0]) for column in range(image[1]) if view.seen((row, column))]
    (top, bottom), (left, right) = view.box()
    assert seen == [(row, column) for row in range(top, bottom + 1) for column in range(left, right + 1)]
    assert view.seen((-1, left)) is view.seen((image[0], left)) is view.seen((top, image[1])) is None


@pytest.mark.parametrize(("image", "size", "ratio"), VIEWS)
def test_there_and_back(image, size, ratio):
    """To the pixel where the image is made smaller; to the one it came from where it is enlarged."""
    view = view_of(image, size, ratio)
    smaller = [taken >= resized for taken, resized in zip(view.taken, view.resized, strict=True)]
    for row in range(size[0]):
        for column in range(size[1]):
            back = view.unseen((row, column))
            assert all(0 <= at < n for at, n in zip(back, image, strict=True))
            if all(smaller):
                assert view.seen(back) == (row, column)
            elif not any(smaller) and (again := view.seen(back)) is not None:
                assert view.unseen(again) == back
