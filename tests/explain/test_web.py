"""The page without a browser: what it shows is what `attnconv explain` finds."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from explain.small import CPU, network, web_image
from torch import nn

from attnconv import Attention, SimpleSelfAttention
from attnconv.data import decode_image
from attnconv.data.decode import read_bytes
from attnconv.explain import attention_maps, see_image
from attnconv.explain.attention import AttentionMap
from attnconv.explain.web_page import (
    attention_html,
    heat_pixels,
    picture_of,
    prediction_html,
    query_of,
    refused_html,
    title_html,
    web_page,
)
from attnconv.explain.web_session import WebImage, WebNetwork, open_image


@pytest.mark.parametrize("channels", [1, 3])
def test_it_attends_as_explain_does(photo, channels):
    shown = network(channels=channels)
    opened = open_image(web_image(photo), [shown])
    assert opened.size == (40, 60)
    assert opened.shown.shape == (3, 40, 60)
    seen = see_image(decode_image(photo, channels), shown.meta)
    (look,) = opened.looks
    assert torch.equal(look.seen.prepared, seen.prepared)
    for point in ((20, 30), (8, 51)):
        expected = attention_maps(shown.model, seen.prepared, seen.point(point))
        for found, wanted in zip(look.maps(point), expected, strict=True):
            assert (found.layer, found.query) == (wanted.layer, wanted.query)
            assert torch.equal(found.weights, wanted.weights)
    chances = shown.model(seen.prepared[None])[0].detach().softmax(-1)
    assert look.likely is not None
    assert [name for name, _ in look.likely] == [f"class {i}" for i in chances.topk(5).indices]
    assert look.likely[0][1] == pytest.approx(float(chances.max()))


def test_points_cost_no_run(photo):
    shown, runs = network(), []
    shown.model.register_forward_hook(lambda *_: runs.append(1))
    opened = open_image(web_image(photo), [shown])
    for point in ((20, 30), (21, 31), (22, 32)):
        attention_html(opened.looks[0], point, layer="layer3.0", head=None)
    assert runs == [1] * 3  # one, and one without each of two layers


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """What the page of two networks draws of an image that is kept, a query and what is chosen: message, heat maps."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # which the server sets
    return next(event.fn for event in web_page([network(), network()]).fns.values() if event.name == "draw")


def test_an_image_that_is_no_longer_kept_is_asked_for_once_more(photo, drawn):
    opened, other = (open_image(web_image(photo), [network(), network()]) for _ in range(2))
    chosen = ["layer3.0", "all", "layer2.0", "3"]
    message, first, second = drawn(opened, query_of(opened), *chosen)
    assert message == ""
    assert first == attention_html(opened.looks[0], opened.point, layer="layer3.0", head=None)
    assert second == attention_html(opened.looks[1], opened.point, layer="layer2.0", head=3)
    for kept in (None, other):
        message, *maps = drawn(kept, query_of(opened), *chosen)
        assert "the image of this tab is no longer kept: drop it once more." in message
        assert maps == ["", ""]


def test_a_head_of_the_layer_before_is_all_heads(photo, drawn):
    opened = open_image(web_image(photo), [network(), network()])
    assert (
        drawn(opened, query_of(opened), "layer3.0", "9", "layer3.0", "all")[1:]
        == [attention_html(opened.looks[0], opened.point, layer="layer3.0", head=None)] * 2
    )


def test_a_network_never_runs_on_two_images_at_a_time(photo):
    shown, running, most = network(), [], []

    def begin(*_):
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)  # seconds in which the other thread comes

    shown.model.register_forward_pre_hook(begin)
    shown.model.register_forward_hook(lambda *_: running.clear())
    with ThreadPoolExecutor(4) as pool:
        looks = list(pool.map(lambda _: open_image(web_image(photo), [shown]).looks[0], range(8)))
    assert most == [1] * 8 * 3
    assert all(torch.equal(look.maps((20, 30))[0].weights, looks[0].maps((20, 30))[0].weights) for look in looks)


def test_two_networks_are_asked_about_the_same_point_of_the_file(photo):
    wide, square = network(image_size=(16, 24), resize_ratio=1.0), network(image_size=(32, 32), channels=1)
    opened = open_image(web_image(photo, point=(20, 2)), [wide, square])
    assert opened.point == (20, 2)
    shown, cut = (attention_html(look, opened.point, layer="layer3.0", head=2) for look in opened.looks)
    assert shown.count('class="cells"') == 1
    assert "the point 20,2 is cut away before the network sees the image" in cut
    assert "<img" not in cut
    assert open_image(web_image(photo), [wide, square]).point == (21, 31)  # the middle of what the first one sees


def test_heads_and_layers_are_chosen(photo):
    opened = open_image(web_image(photo), [network()])
    all_of_them, one = (attention_html(opened.looks[0], (20, 30), layer="layer2.0", head=head) for head in (None, 4))
    assert [all_of_them.count(f"Heat map of head {i}") for i in range(1, 6)] == [1, 1, 1, 1, 0]
    assert [one.count(f"Heat map of head {i}") for i in range(1, 6)] == [0, 0, 0, 1, 0]
    assert "attends on 8 x 12 cells" in one
    assert "attends on 4 x 6 cells" in attention_html(opened.looks[0], (20, 30), layer="layer3.0", head=4)


def test_shares_go_from_black_to_the_largest():
    weights = torch.tensor([[[0.0, 0.1], [0.2, 0.7]], [[0.4, 0.3], [0.2, 0.1]]])
    colours = heat_pixels(weights[0].numpy(), AttentionMap("a", (0, 0), weights))
    assert colours.shape == (2, 2, 3)
    assert colours[0, 0].max() < 10
    assert colours[1, 1].min() > 180
    assert list(colours.reshape(4, 3).sum(1)) == sorted(colours.reshape(4, 3).sum(1))


def test_signed_weights_are_blue_white_and_red():
    weights = torch.tensor([[[-0.5, 0.0], [0.25, 0.5]]])
    found = AttentionMap("a", (0, 0), weights, signed=True)
    (blue, white), (light, red) = heat_pixels(weights[0].numpy(), found).astype(int)
    assert blue[2] > blue[0] + 50
    assert white.min() > 240
    assert red[0] > red[2] + 50
    assert light.sum() > red.sum()


class WithoutMap(Attention):
    def forward(self, x):
        return x


def test_the_page_says_what_the_colours_mean(photo):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 1), SimpleSelfAttention(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    nn.init.ones_(layers[1].gamma)
    signed = WebNetwork("signed", nn.Sequential(*layers, WithoutMap()).eval(), network().meta, CPU)
    opened = open_image(web_image(photo), [network(), signed])
    shares = attention_html(opened.looks[0], (20, 30), layer="layer3.0", head=None)
    (found,) = (m for m in opened.looks[0].maps((20, 30)) if m.layer == "layer3.0")
    assert "sum to 1 for each head" in shares
    assert "<span>0</span><img" in shares
    assert f"<span>{float(found.weights.max()):.2g}</span></div>" in shares
    added = attention_html(opened.looks[1], (20, 30), layer="1", head=1)
    (found,) = opened.looks[1].maps((20, 30))
    largest = float(found.weights.abs().max())
    assert f"<span>{-largest:.2g}</span><img" in added
    assert f"<span>{largest:.2g}</span></div>" in added
    assert "red adds, blue subtracts, white is 0. They do not sum to 1." in added
    assert "multiplied by gamma, 1, and added to the layer" in added
    assert "5 has no attention map." in added
    assert "no attention map" not in shares
    nn.init.zeros_(layers[1].gamma)
    opened = open_image(web_image(photo), [signed])
    inactive = attention_html(opened.looks[0], (20, 30), layer="1", head=1)
    said = "The layer is inactive: switching it off moves the logits by 0 of their norm, so its weights are not drawn."
    assert said in inactive
    assert "head 1, inactive" in inactive
    assert f"<span>{largest:.2g}</span>" not in inactive
    assert "red adds" not in inactive


def test_weights_that_are_all_0_are_said_to_be(photo):
    """A black point, in an image of which other points attend."""
    look = open_image(web_image(photo), [network()]).looks[0]
    zeros = AttentionMap("a", (0, 0), torch.zeros(1, 4, 6), signed=True, gamma=0.5, logits_moved=0.1)
    look = SimpleNamespace(seen=look.seen, attention=look.attention, maps=lambda point: [zeros])
    assert "All weights are 0." in attention_html(look, (20, 30), layer="a", head=1)


def test_an_inactive_layer_is_grey():
    weights = torch.tensor([[[-0.5, 0.0], [0.25, 0.5]]])
    found = AttentionMap("a", (0, 0), weights, signed=True, logits_moved=1e-7, active=False)
    assert np.unique(heat_pixels(weights[0].numpy(), found)).tolist() == [204]


def test_names_are_text_and_no_html(photo):
    opened = open_image(WebImage("<b>.png", read_bytes(photo)), [network()])
    shown = picture_of(opened)
    assert "&lt;b&gt;.png" in shown["image"]
    assert "&lt;b&gt;.png" in shown["note"]
    assert "<b>" not in "".join(shown.values())
    named = WebNetwork("n", network().model, {**network().meta, "classes": ["<script>"] * 10}, CPU)
    page = prediction_html(open_image(web_image(photo), [named]).looks[0])
    assert page.count("&lt;script&gt;") == 5
    assert "<script" not in page


def test_names_are_shown_escaped(photo):
    name, escaped = "a\n\x1b[2J\u202e\udcff", r"a\n\x1b[2J\u202e\udcff"
    named = WebNetwork(name, network().model, {**network().meta, "classes": [name] * 10}, CPU)
    opened = open_image(WebImage(name, read_bytes(photo)), [named])
    for page in (picture_of(opened)["note"], title_html(name), prediction_html(opened.looks[0]), refused_html(name)):
        assert escaped in page
        assert page.isprintable()


def test_an_eps_file_is_no_image():
    content = np.frombuffer(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", np.uint8)
    with pytest.raises(ValueError, match=r"cannot decode image x\.png: it is no image, or of a format unknown here"):
        open_image(WebImage("x.png", content), [network()])


def test_a_network_that_names_pixels_predicts_nothing(photo):
    opened = open_image(web_image(photo), [network("aa_unet", image_size=(16, 16), dense=True)])
    assert opened.looks[0].likely is None
    assert "names pixels" in prediction_html(opened.looks[0])


def test_a_network_without_attention_is_refused():
    with pytest.raises(ValueError, match="ConvNet3 has no attention layer to explain"):
        network("convnet3")


NO_IMAGES = {
    "notes.jpg": (b"no image at all", "cannot decode image notes.jpg: it is no image"),
    "drawn.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "cannot decode image drawn.svg: it is no image"),
    "empty.png": (b"", "cannot decode image empty.png: the file is empty"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_refused(name):
    content, message = NO_IMAGES[name]
    with pytest.raises(ValueError, match=message):
        open_image(WebImage(name, np.frombuffer(content, np.uint8)), [network()])


def test_half_an_image_is_refused(photo):
    with pytest.raises(ValueError, match=r"cannot decode image half.jpg: .*truncated"):
        open_image(WebImage("half.jpg", read_bytes(photo)[:1500]), [network()])
