"""The pictures of a layer: the query, the mean of the heads, Grad-CAM and each head, over the photo."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from explain.test_attention import gated, network
from PIL import Image
from torch import nn

from attnconv import SimpleSelfAttention
from attnconv.explain import Row, attention_figure, attention_maps, choose_maps, grad_cam, rows_figure, see_image
from attnconv.explain.attention import AttentionMap
from attnconv.explain.figure import (
    INACTIVE,
    LONGEST,
    SHORTEST,
    framed_photo,
    heads_title,
    panels,
    photo_of,
    row_title,
)

META = {"channels": 3, "image_size": [16, 16], "resize_ratio": 1.0, "mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.fixture
def seen():
    """A photo of 200 x 300 pixels, of which the network sees the middle 200 columns."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    return see_image(Image.fromarray(pixels), META)


def weights(*heads):
    return torch.tensor(heads, dtype=torch.float32)


def corner(*at, signed=False, value=1.0):
    """A map of 4 x 4 cells with one weight."""
    found = torch.zeros(1, 4, 4)
    found[(0, *at)] = value
    return AttentionMap("a", (0, 0), found, signed=signed)


def test_the_mean_comes_first_and_the_heads_behind(seen):
    maps = attention_maps(network(), seen.prepared, (3, 4))
    drawn = panels(seen, maps[0], (3, 4))
    assert [panel.title.split(":")[0] for panel in drawn] == [
        "query",
        "mean of 4 heads",
        *(f"head {i}" for i in range(1, 5)),
    ]
    assert [panel.is_head for panel in drawn] == [False] * 2 + [True] * 4
    mean = float(maps[0].weights.mean(0).max())
    uniform = 1 / maps[0].weights[0].numel()
    assert drawn[1].title == f"mean of 4 heads: {uniform:.2g} to {mean:.2g}"
    assert drawn[2].title == "head 1"
    assert heads_title(maps[0]) == f"4 heads share one scale: {uniform:.2g} to {float(maps[0].weights.max()):.2g}"
    (only,) = choose_maps(maps, layer="layer1.0", head=2)
    assert [panel.title.split(":")[0] for panel in panels(seen, only, (3, 4))] == ["query", "head 2"]
    assert heads_title(only) == ""


def test_the_map_of_a_single_head_has_a_number_if_it_was_chosen(seen):
    single = corner(0, 0)
    assert [panel.title for panel in panels(seen, single, (3, 4))] == ["query", "attention: 0.062 to 1"]
    (chosen,) = choose_maps([single], head=1)
    assert panels(seen, chosen, (3, 4))[1].title == "head 1: 0.062 to 1"


def test_pictures_have_the_resolution_of_the_file(seen):
    photo, scale = photo_of(seen)
    assert photo.shape == (SHORTEST * 200 // 300, SHORTEST, 3)  # a small photo is enlarged
    assert scale == SHORTEST / 300
    large = see_image(Image.new("RGB", (700, 600)), META)
    assert photo_of(large)[0].shape == (600, 700, 3)
    huge = see_image(Image.new("RGB", (4000, 2000)), META)
    assert photo_of(huge)[0].shape == (LONGEST // 2, LONGEST, 3)


@pytest.mark.parametrize("size", [(700, 600), (4000, 2000), (300, 900)])
def test_a_picture_of_one_layer_keeps_the_pixels_of_the_photo(size):
    image = see_image(Image.new("RGB", size), META)
    rows, columns, _ = photo_of(image)[0].shape
    figure = attention_figure(image, [corner(3, 3)], (0, 0))
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert (box.width, box.height) == pytest.approx((columns, rows))


def test_the_map_lies_over_the_crop_alone(seen):
    """Weight of the right lower cell: the photo's columns 200 to 250, rows 150 to 200."""
    shown = panels(seen, corner(3, 3), (0, 0))[1].pixels.astype(int)
    scale = SHORTEST / 300
    photo = photo_of(seen)[0]
    left, right = round(50 * scale), round(250 * scale)
    assert np.allclose(shown[:, : left - 1], photo[:, : left - 1] * 0.4, atol=1)
    assert np.allclose(shown[:, right + 1 :], photo[:, right + 1 :] * 0.4, atol=1)
    colour = shown[..., 0] - shown[..., 2]  # the grey photo has none
    row, column = np.unravel_index(colour.argmax(), colour.shape)
    assert row > 150 * scale
    assert 200 * scale < column < right


def test_a_narrow_part_is_drawn_alone():
    """The network sees 40 x 40 of 40 x 400 pixels; the left ten columns of its part are white."""
    pixels = np.zeros((40, 400, 3), np.uint8)
    pixels[:, 180:190] = 255
    wide = see_image(Image.fromarray(pixels), META)
    photo, scale = photo_of(wide)
    assert (photo.shape, scale) == ((SHORTEST, SHORTEST, 3), SHORTEST / 40)
    assert photo[:, : 10 * 12].min() == 255
    assert photo[:, 10 * 12 :].max() == 0
    assert np.array_equal(framed_photo(wide), photo)
    point = wide.point((30, 210))
    query, shown = panels(wide, corner(0, 3), point, photo_point=(30, 210))
    assert query.pixels[int(30.5 * scale), int(30.5 * scale)].tolist() == [228, 87, 46]
    colour = shown.pixels[..., 0].astype(int) - shown.pixels[..., 2]
    row, column = np.unravel_index(colour.argmax(), colour.shape)
    assert row < SHORTEST / 4
    assert column > SHORTEST * 3 / 4
    half = see_image(Image.fromarray(pixels[:, :80]), META)
    assert photo_of(half)[0].shape == (SHORTEST // 2, SHORTEST, 3)  # half is enough


def test_the_dot_lies_on_the_point_that_was_asked_for(seen):
    scale = SHORTEST / 300
    for asked in ((103, 151), (97, 157)):  # 12 pixels of the photo are one of the network's
        shown = panels(seen, corner(0, 0), seen.point(asked), photo_point=asked)[0].pixels
        found = (shown == [228, 87, 46]).all(-1).nonzero()
        middle = [float(at.min() + at.max() + 1) / 2 for at in found]
        assert middle == pytest.approx([(at + 0.5) * scale for at in asked], abs=1)


def test_the_query_and_the_crop_are_marked(seen):
    point = seen.point((100, 150))
    shown = panels(seen, corner(0, 0), point)[0].pixels
    scale = SHORTEST / 300
    row, column = (int((at + 0.5) * scale) for at in seen.view.unseen(point))
    assert shown[row, column].tolist() == [228, 87, 46]
    assert shown[100, round(50 * scale) + 2].tolist() == [255, 255, 255]  # the frame around the crop
    square = panels(torch.rand(3, 16, 16), corner(0, 0), (8, 8))[0].pixels
    assert square[:, 2].std() > 0  # no frame: the network sees all


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tensor_is_drawn_too(channels):
    image = torch.rand(channels, 5, 4)
    photo, _ = photo_of(image)
    assert photo.shape == (SHORTEST, SHORTEST * 4 // 5, 3)
    assert np.unique(photo.reshape(-1, 3), axis=0).shape[0] <= 20  # enlarged in squares


def test_weights_up_to_uniform_attention_are_transparent():
    image = torch.full((3, 16, 16), 0.5)
    uniform = panels(image, AttentionMap("a", (0, 0), torch.full((1, 4, 4), 1 / 16)), (0, 0))[1]
    assert uniform.title == "attention: 0.062 to 0.062"
    assert (uniform.pixels[SHORTEST // 2 :] == 128).all()
    found = torch.full((1, 4, 4), 1 / 20)
    found[0, 3, 3] = 1 / 4
    pixels = panels(image, AttentionMap("a", (0, 0), found), (0, 0))[1].pixels
    assert (pixels[SHORTEST // 2 :, : SHORTEST // 2] == 128).all()  # below uniform: no colour
    assert pixels[-1, -1].std() > 20


def test_signed_weights_are_blue_and_red():
    image = torch.full((3, 16, 16), 0.5)
    for value, channel in ((1.0, 0), (-1.0, 2)):
        shown = panels(image, corner(2, 2, signed=True, value=value), (0, 0))[1].pixels.astype(int)
        middle = shown[int(SHORTEST * 2.5 / 4), int(SHORTEST * 2.5 / 4)]
        assert middle[channel] > middle[2 - channel] + 50


def test_an_inactive_layer_is_grey():
    image = torch.rand(3, 6, 9)
    first, second = attention_maps(gated(1e-7), image, (3, 4))
    assert first.weights.std() > 0  # which would have filled a scale of its own
    grey, drawn = (panels(image, found, (3, 4))[1] for found in (first, second))
    assert grey.title == "attention: inactive"
    assert (grey.pixels[-20:] == INACTIVE).all()
    assert drawn.pixels[-20:].std() > 0


def test_titles_tell_the_scale():
    found = AttentionMap("a", (0, 0), torch.zeros(1, 4, 5), signed=True, gamma=0.5)
    assert panels(torch.rand(3, 8, 8), found, (0, 0))[1].title == "attention: all weights 0"
    assert heads_title(replace(found, weights=torch.zeros(2, 4, 5))) == "2 heads: all weights 0"
    assert row_title(found) == "a: 4 x 5 cells"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), SimpleSelfAttention(4))
    nn.init.ones_(model[1].gamma)
    image = torch.rand(3, 6, 9)
    (found,) = attention_maps(model, image, (3, 4))
    largest = float(found.weights.abs().max())
    assert panels(image, found, (3, 4))[1].title == f"attention: {-largest:.2g} to {largest:.2g}, gamma 1"
    assert row_title(corner(0, 0)) == "a: 4 x 4 cells; uniform attention is 0.062 a cell"


def test_the_figure_has_a_row_for_each_layer_that_can_be_drawn():
    image = torch.rand(3, 8, 12)
    figure = attention_figure(image, attention_maps(network(), image, (3, 4)), (3, 4), title="$a_{$")
    assert len(figure.axes) == 2 * (2 + 4)
    assert [text.get_text().split(":")[0] for text in figure.texts] == [
        "$a_{$", "layer1.0", "4 heads share one scale", "layer2.0", "4 heads share one scale",
    ]  # fmt: skip
    titles = [axes.get_title().split(":")[0] for axes in figure.axes]
    places = dict(zip(titles[:6], (axes.get_position() for axes in figure.axes), strict=False))
    one, two, three, four = (places[f"head {i}"] for i in range(1, 5))
    assert one.y0 == two.y0 > three.y0 == four.y0  # by row, as on the page
    assert one.x0 == three.x0 < two.x0 == four.x0
    ends = [axes.get_position() for axes in figure.axes]
    assert all(0 <= end.x0 < end.x1 <= 1 and 0 <= end.y0 < end.y1 <= 1 for end in ends)


def test_grad_cam_stands_beside_attention():
    pytest.importorskip("pytorch_grad_cam")
    model, image = network().eval(), torch.rand(3, 16, 12)
    cam = grad_cam(model, image, "layer2.0")
    assert cam.shape == (16, 12)
    assert 0 <= cam.min() < cam.max() <= 1
    assert not any(module._forward_hooks for module in model.modules())
    found = attention_maps(model, image, (3, 4))[1]
    figure = rows_figure([Row(image, (3, 4), found, "a", cam)])
    assert [axes.get_title().split(":")[0] for axes in figure.axes][:3] == [
        "query", "mean of 4 heads", "Grad-CAM of the prediction",
    ]  # fmt: skip


def test_grad_cam_that_is_not_installed_gets_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ValueError, match=r"this needs pytorch_grad_cam: pip install 'attnconv\[cam\]'"):
        grad_cam(network(), torch.rand(3, 16, 16), "layer1.0")
