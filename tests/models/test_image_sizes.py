"""Which sizes each network takes, as docs/models.md says it."""

import pytest
import torch

from attnconv.models import create_model, list_models
from attnconv.models.image_sizes import sizes_of

IMAGE_SIZE = (33, 26)
# Deeper ones of their families are made of the same blocks.
DEEP = ("34", "50", "101", "152", "22_6", "28_10", "40_2")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name.endswith(DEEP) else name
    for name in (*list_models(), *list_models(dense=True))
]


def sizes(name, image_size=IMAGE_SIZE, **options):
    """The least side, and the most rows and columns, or None."""
    with torch.device("meta"):
        found = sizes_of(create_model(name, num_classes=2, image_size=image_size, **options), 3)
    (least, rows), (same, columns) = found.rows, found.columns
    assert (least, rows is None) == (same, columns is None)
    return least, None if rows is None else (rows, columns)


@pytest.mark.parametrize("name", NAMES)
def test_small_networks_need_a_few_pixels_and_only_position_tables_set_an_upper_limit(name):
    least, most = sizes(name)
    assert least == (8 if "convnet3" in name else 4 if "unet" in name else 1)
    assert (most is not None) == ("aa_" in name)
    if most is not None:
        assert all(n <= found < n + 32 for n, found in zip(IMAGE_SIZE, most, strict=True))


@pytest.mark.parametrize("name", ["aa_convnet3", "aa_unet", "aa_wide_resnet10_1", "aa_resnet18"])
@pytest.mark.parametrize("position", ["sine", "coordconv", None])
def test_without_tables_there_is_no_upper_limit(name, position):
    assert sizes(name, position=position)[1] is None


@pytest.mark.parametrize("name", ["aa_convnet3", "aa_unet", "aa_resnet18", "convnet3"])
def test_those_are_the_sizes_at_which_it_runs(name):
    least, most = sizes(name)
    rows, columns = most or (50, 41)
    model = create_model(name, num_classes=2, image_size=IMAGE_SIZE).eval()
    with torch.no_grad():
        for size in ((least, least), (rows, columns)):
            model(torch.zeros(1, 3, *size))
        for size in [(rows + 1, columns), (rows, columns + 1)] if most else []:
            with pytest.raises(ValueError, match="position tables cover"):
                model(torch.zeros(1, 3, *size))
        if least > 1:
            with pytest.raises(ValueError, match=f"at least {least} x {least} pixels"):
                model(torch.zeros(1, 3, least - 1, least))


def test_tables_that_cover_less_than_the_network_needs():
    with pytest.raises(ValueError, match="images of 64 x 64 are larger than the position tables"):
        sizes("aa_convnet3", image_size=4)
