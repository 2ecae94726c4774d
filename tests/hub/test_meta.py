"""Facts of images: what contradicts itself, or could not be read back, is refused."""

import numpy as np
import pytest
import torch
from export.untrained import meta

from attnconv.models.saved import checked_meta

NAMES = "classes, channels, image_size, mean, std, resize_ratio"


@pytest.mark.parametrize(
    "given",
    [
        {"resize_ratio": 1},
        {"mean": np.array([0.5, 0.25]), "std": (0.5, 1)},
        {"mean": torch.tensor([0.5, 0.25]), "classes": ("one", "two", "three")},
        {"image_size": 9, "channels": np.int64(2)},
    ],
)
def test_what_is_meant_becomes_plain_values(given):
    found = checked_meta({**meta(9), **given})
    assert found["image_size"] == [9, 9]
    assert found["classes"] == ["one", "two", "three"]
    assert type(found["resize_ratio"]) is float
    assert {type(n) for name in ("mean", "std") for n in found[name]} == {float}
    assert checked_meta(found) == found


@pytest.mark.parametrize("name", NAMES.split(", "))
def test_what_is_missing(name):
    given = {key: value for key, value in meta(9).items() if key != name}
    with pytest.raises(ValueError, match=f"^meta lacks '{name}'; it needs {NAMES}$"):
        checked_meta(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": []}, r"meta's 'classes' must be a list of names, got \[\]"),
        ({"classes": "one"}, "meta's 'classes' must be a list of names, got 'one'"),
        ({"classes": [1, 2, 3]}, "meta's 'classes' must be a list of names, got"),
        ({"channels": 2.5}, "meta's 'channels' must be an integer, got 2.5"),
        ({"channels": 3}, r"meta's 'mean' must list one number per channel, 3, got \[0.5, 0.4\]"),
        ({"image_size": [9, 0]}, "meta's 'image_size' must be at least 1, got 0"),
        ({"image_size": [9, 9, 9]}, "meta's 'image_size' must be one integer or 2, one for each axis"),
        ({"image_size": 4097}, "meta's 'image_size' must be at most 4096 per side, got 4097"),
        ({"mean": [0.5]}, r"meta's 'mean' must list one number per channel, 2, got \[0.5\]"),
        ({"mean": 0.5}, "meta's 'mean' must list one number per channel, 2, got 0.5"),
        ({"mean": [0.5, "0.4"]}, "meta's 'mean' must be a number, got '0.4'"),
        ({"mean": [0.5, float("nan")]}, "meta's 'mean' must be finite, got nan"),
        ({"mean": [0.5, 10**400]}, "meta's 'mean' must be finite, got an integer of more than 300 digits"),
        ({"std": [0.5, 0]}, "meta's 'std' must be above 0, got"),
        ({"resize_ratio": "1"}, "meta's 'resize_ratio' must be a number, got '1'"),
        ({"resize_ratio": 0}, "meta's 'resize_ratio' must be above 0, got 0"),
        ({"name": object()}, r"meta\['name'\] must hold plain values"),
    ],
)
def test_meta_that_could_not_be_used(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        checked_meta({**meta(9), **given})


def test_no_meta():
    with pytest.raises(TypeError, match=r"^meta must hold names and values, got NoneType$"):
        checked_meta(None)
