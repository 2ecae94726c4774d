"""What the network sees outside training."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from attnconv.checks import InputError, InputTypeError
from attnconv.data import prepare_image
from attnconv.data.view import Normalise, fit

META = {"channels": 3, "image_size": [14, 14], "resize_ratio": 8 / 7, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 20, 31), (3, 31, 20), (1, 9, 40), (2, 3, 33, 17)])
def test_fit_is_the_usual_resize_and_centre_crop(shape):
    images = noise(*shape)
    expected = v2.Compose([v2.Resize(16, antialias=True), v2.CenterCrop(14)])(images)
    assert torch.equal(fit(images, (14, 14), 8 / 7), expected)


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
