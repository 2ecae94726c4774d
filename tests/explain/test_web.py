"""The page without a browser: what it shows is what `attnconv explain` finds."""

import base64
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from explain.small import CPU, network, web_image
from torch import nn

from attnconv import Attention, SimpleSelfAttention
from attnconv.data import decode_image
from attnconv.data.decode import read_bytes
from attnconv.explain import attention_maps, see_image
from attnconv.explain.figure import data_uri, framed_photo, panels, photo_of
from attnconv.explain.web_page import WebImage, WebNetwork, WebPage


def attend(page, opened, point, layers=(1,), heads=True):
    return page.attend(opened["image"], point, layers, heads=heads)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_attends_as_explain_does(photo, channels):
    shown = network(channels=channels)
    page = WebPage([shown])
    opened = page.open(web_image(photo))
    assert opened["size"] == (40, 60)
    seen = see_image(decode_image(photo, channels), shown.meta)
    for point in ((20, 30), (8, 51)):
        at = seen.point(point)
        for i, found in enumerate(attention_maps(shown.model, seen.prepared, at)):
            (answer,) = attend(page, opened, point, [i])
            expected = panels(seen, found, at)[1:]
            assert [one["title"] for one in answer["pictures"]] == [panel.title for panel in expected]
            assert [one["picture"] for one in answer["pictures"]] == [data_uri(panel.pixels) for panel in expected]
    chances = shown.model(seen.prepared[None])[0].detach().softmax(-1)
    (likely,) = opened["predictions"]
    assert [name for name, _ in likely] == [f"class {i}" for i in chances.topk(5).indices]
    assert likely[0][1] == pytest.approx(float(chances.max()))


def test_the_heads_come_when_they_are_asked_for(photo):
    page = WebPage([network()])
    opened = page.open(web_image(photo))
    for heads, count in ((False, 1), (True, 5)):
        (answer,) = attend(page, opened, (20, 30), heads=heads)
        assert len(answer["pictures"]) == count
        assert answer["heads"].startswith("4 heads share one scale: 0.01 to ")


def test_the_photo_has_the_frame_of_what_is_seen(photo):
    shown = network(image_size=(32, 32), resize_ratio=1.0)
    opened = WebPage([shown]).open(web_image(photo))
    seen = see_image(decode_image(photo, 3), shown.meta)
    assert opened["picture"] == data_uri(framed_photo(seen)) != data_uri(photo_of(seen)[0])
    assert (opened["drawn"], opened["remark"]) == (((0, 39), (0, 59)), "")
    opened = WebPage([network(image_size=(32, 32))]).open(web_image(photo))
    assert opened["drawn"] == ((4, 35), (14, 45))
    assert opened["remark"] == "the network sees 43 % of this photo: rows 4 to 35, columns 14 to 45"


def test_points_cost_no_run(photo):
    shown, runs = network(), []
    page = WebPage([shown])
    shown.model.register_forward_hook(lambda *_: runs.append(1))
    opened = page.open(web_image(photo))
    for point in ((20, 30), (21, 31), (22, 32)):
        attend(page, opened, point)
    assert runs == [1] * 3  # one, and one without each of two layers


def test_only_the_latest_images_are_kept(photo, monkeypatch):
    monkeypatch.setattr("attnconv.explain.web_page.KEPT", 2)
    page = WebPage([network()])
    opened = [page.open(web_image(photo)) for _ in range(3)]
    assert attend(page, opened[1], (20, 30)) == attend(page, opened[2], (20, 30))
    with pytest.raises(ValueError, match="this image is no longer kept: drop it once more"):
        attend(page, opened[0], (20, 30))


def test_a_network_never_runs_on_two_images_at_a_time(photo):
    shown, running, most = network(), [], []

    def begin(*_):
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)  # seconds in which the other thread comes

    shown.model.register_forward_pre_hook(begin)
    shown.model.register_forward_hook(lambda *_: running.clear())
    page = WebPage([shown])
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: page.open(web_image(photo)), range(8)))
    assert most == [1] * 8 * 3
    assert len({one["image"] for one in opened}) == 8


def test_two_networks_are_asked_about_the_same_point_of_the_file(photo):
    wide, square = network(image_size=(32, 48), resize_ratio=1.0), network(image_size=(32, 32), channels=1)
    page = WebPage([wide, square])
    opened = page.open(web_image(photo, point=(20, 2)))
    assert opened["point"] == (20, 2)
    shown, cut = attend(page, opened, (20, 2), [1, 1])
    assert len(shown["pictures"]) == 5
    assert cut.keys() == {"note"}
    assert "the point 20,2 is cut away before the network sees the image" in cut["note"]
    assert page.open(web_image(photo))["point"] == (20, 30)  # the middle of what the first one sees


class WithoutMap(Attention):
    def forward(self, x):
        return x


def test_notes_say_what_the_colours_mean(photo):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 1), SimpleSelfAttention(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    nn.init.ones_(layers[1].gamma)
    signed = WebNetwork("signed", nn.Sequential(*layers, WithoutMap()).eval(), network().meta, CPU)
    page = WebPage([network(), signed])
    shares, added = (answer["note"] for answer in attend(page, page.open(web_image(photo)), (20, 30), [1, 0]))
    assert shares == ("layer3.0: 8 x 12 cells; uniform attention is 0.01 a cell. The weights of a head sum to 1.")
    assert added == (
        "1: 32 x 48 cells. Signed weights: red adds, blue subtracts; they do not sum to 1. The layer multiplies the "
        "sum by gamma, 1, and adds it to its input. 5 has no attention map."
    )
    nn.init.zeros_(layers[1].gamma)
    _, off = attend(page, page.open(web_image(photo)), (20, 30), [1, 0])
    said = "The layer is inactive: switching it off moves the logits by 0 of their norm, so its weights are not drawn."
    assert said in off["note"]
    assert off["pictures"][0]["title"] == "attention: inactive"


def test_layers_below_4_x_4_cells_are_not_offered():
    assert network(image_size=(16, 24)).layers == ["layer2.0", "layer3.0"]
    assert network(image_size=(8, 12)).layers == ["layer2.0"]


def test_names_are_shown_escaped(photo):
    name, escaped = "a\n\x1b[2J\u202e\udcff", r"a\n\x1b[2J\u202e\udcff"
    page = WebPage([WebNetwork(name, network().model, {**network().meta, "classes": [name] * 10}, CPU)])
    opened = page.open(WebImage(name, read_bytes(photo)))
    assert page.describe()["networks"][0]["title"] == opened["name"] == opened["predictions"][0][0][0] == escaped


def test_an_eps_file_is_no_image():
    content = np.frombuffer(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", np.uint8)
    with pytest.raises(ValueError, match=r"cannot decode image x\.png: it is no image, or of a format unknown here"):
        WebPage([network()]).open(WebImage("x.png", content))


def test_a_network_that_names_pixels_predicts_nothing(photo):
    page = WebPage([network("aa_unet", image_size=(32, 32), dense=True)])
    assert page.open(web_image(photo))["predictions"] == [None]


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
        WebPage([network()]).open(WebImage(name, np.frombuffer(content, np.uint8)))


def test_half_an_image_is_refused(photo):
    with pytest.raises(ValueError, match=r"cannot decode image half.jpg: .*truncated"):
        WebPage([network()]).open(WebImage("half.jpg", read_bytes(photo)[:1500]))


def test_pictures_are_inside_the_answer(photo):
    picture = WebPage([network()]).open(web_image(photo))["picture"]
    assert base64.b64decode(picture.removeprefix("data:image/jpeg;base64,"))[:2] == b"\xff\xd8"


def test_grad_cam_stands_beside_attention(photo):
    pytest.importorskip("pytorch_grad_cam")
    page = WebPage([network()], grad_cam=True)
    (answer,) = attend(page, page.open(web_image(photo)), (20, 30))
    assert answer["pictures"][1]["title"] == "Grad-CAM of the prediction: 0 to 1"
    dense = WebPage([network("aa_unet", image_size=(32, 32), dense=True)], grad_cam=True)
    opened = dense.open(web_image(photo))
    with pytest.raises(ValueError, match="Grad-CAM explains a class of the whole image; this network labels pixels"):
        attend(dense, opened, (20, 30), [0])
