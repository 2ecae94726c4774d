"""The page without a browser: what it shows is what `attnconv explain` finds, and what its server gives away."""

import http.client
import json
import os
import socket
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from explain.served import served
from PIL import Image
from torch import nn

from attnconv import SimpleSelfAttention
from attnconv.data import decode_image
from attnconv.data.decode import read_bytes
from attnconv.explain import attention_maps, see_image
from attnconv.explain.attention import AttentionMap
from attnconv.explain.web import WebImage, WebNetwork, WebServer, open_image, web_page
from attnconv.explain.web.server import listen
from attnconv.explain.web.view import attention_html, heat_pixels, picture, prediction_html, query
from attnconv.models import create_model

CPU = torch.device("cpu")


def network(model="aa_convnet3", *, image_size=(16, 24), channels=3, resize_ratio=1.25, classes=10, **meta):
    torch.manual_seed(0)
    made = create_model(model, num_classes=classes, in_channels=channels, image_size=image_size).eval()
    facts = {
        "classes": [f"class {i}" for i in range(classes)],
        "channels": channels,
        "image_size": list(image_size),
        "resize_ratio": resize_ratio,
        "mean": [0.5] * channels,
        "std": [0.25] * channels,
    }
    return WebNetwork("a network", made, {**facts, **meta}, CPU)


@pytest.fixture
def photo(tmp_path):
    """Lying on its side, as its EXIF says."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif)
    return tmp_path / "photo.jpg"


def web_image(path, **options):
    return WebImage(path.name, read_bytes(path), **options)


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


def test_the_network_runs_once_an_image(photo):
    shown, runs = network(), []
    shown.model.register_forward_hook(lambda *_: runs.append(1))
    opened = open_image(web_image(photo), [shown])
    for point in ((20, 30), (21, 31), (22, 32)):
        attention_html(opened.looks[0], point, layer="layer3.0", head=None)
    assert runs == [1]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """What the page of two networks draws of an image that is kept, a query and what is chosen: message, heat maps."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # which the server sets
    return next(event.fn for event in web_page([network(), network()]).fns.values() if event.name == "draw")


def test_an_image_that_is_no_longer_kept_is_asked_for_once_more(photo, drawn):
    opened, other = (open_image(web_image(photo), [network(), network()]) for _ in range(2))
    chosen = ["layer3.0", "all", "layer2.0", "3"]
    message, first, second = drawn(opened, query(opened), *chosen)
    assert message == ""
    assert first == attention_html(opened.looks[0], opened.point, layer="layer3.0", head=None)
    assert second == attention_html(opened.looks[1], opened.point, layer="layer2.0", head=3)
    for kept in (None, other):
        message, *maps = drawn(kept, query(opened), *chosen)
        assert "the image of this tab is no longer kept: drop it once more." in message
        assert maps == ["", ""]


def test_a_head_of_the_layer_before_is_all_heads(photo, drawn):
    opened = open_image(web_image(photo), [network(), network()])
    assert (
        drawn(opened, query(opened), "layer3.0", "9", "layer3.0", "all")[1:]
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
    assert most == [1] * 8
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


def test_the_page_says_what_the_colours_mean(photo):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 1), SimpleSelfAttention(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    signed = WebNetwork("signed", nn.Sequential(*layers).eval(), network().meta, CPU)
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
    assert "multiplied by gamma, 0, and added to the layer" in added
    nn.init.zeros_(layers[0].weight)
    nn.init.zeros_(layers[0].bias)
    opened = open_image(web_image(photo), [signed])
    assert "All weights are 0." in attention_html(opened.looks[0], (20, 30), layer="1", head=1)


def test_names_are_text_and_no_html(photo):
    opened = open_image(WebImage("<b>.png", read_bytes(photo)), [network()])
    shown = picture(opened)
    assert "&lt;b&gt;.png" in shown["image"]
    assert "&lt;b&gt;.png" in shown["note"]
    assert "<b>" not in "".join(shown.values())
    named = WebNetwork("n", network().model, {**network().meta, "classes": ["<script>"] * 10}, CPU)
    page = prediction_html(open_image(web_image(photo), [named]).looks[0])
    assert page.count("&lt;script&gt;") == 5
    assert "<script" not in page


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


def test_ports():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 is in use: name another one, or none"):
            listen("127.0.0.1", port)
    with listen("127.0.0.1", None) as first, listen("127.0.0.1", None) as second:
        assert 7860 <= first.getsockname()[1] < second.getsockname()[1] < 7960
    with pytest.raises(ValueError, match=r"no host 'a\.\.b' to listen on: "):
        listen("a..b", None)
    with pytest.raises(ValueError, match=r"cannot listen on port 7860 of 192\.0\.2\.1: Cannot assign"):
        listen("192.0.2.1", 7860)


def test_it_listens_on_this_machine_alone_unless_told_otherwise():
    server = WebServer(lambda: pytest.fail("no page yet"), port=0)
    assert server._socket.getsockname()[0] == "127.0.0.1"
    server.__exit__()
    everywhere = WebServer(lambda: pytest.fail("no page yet"), host="0.0.0.0", port=0)
    assert everywhere.address.startswith("http://127.0.0.1:")
    everywhere.__exit__()


@pytest.fixture(scope="module")
def asked():
    """Whom this process asks while it serves."""
    found, connect = [], socket.socket.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda self, to: (found.append(to), connect(self, to))[1])
        yield found


@pytest.fixture(scope="module")
def site(asked, tmp_path_factory):
    """The address of a page that takes uploads of up to 3,000 bytes, and the folder in which temporary files are."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        with served([network()], max_bytes=3000) as address:
            yield address, folder
        assert list(folder.iterdir()) == []
        assert "GRADIO_TEMP_DIR" not in os.environ


def answer(site, method, path, **request):
    connection = http.client.HTTPConnection(urllib.parse.urlparse(site[0]).netloc)
    connection.request(method, path, **request)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_the_page_asks_no_other_host(site, asked):
    code, page = answer(site, "GET", "/")
    assert code == 200
    assert "What attention looks at" in page
    assert "fonts.googleapis" not in page + answer(site, "GET", "/theme.css")[1]
    assert {to[0] for to in asked if isinstance(to, tuple)} == {"127.0.0.1"}


def upload(site, content, **more):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + content + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x", **more}
    return answer(site, "POST", "/gradio_api/upload", body=body, headers=headers)


def test_a_large_upload_is_refused_by_the_server_too(site):
    assert upload(site, bytes(3001)) == (413, "File size exceeded maximum allowed size of 3000 bytes.")
    assert upload(site, bytes(2999))[0] == 200


def test_no_file_is_handed_out(site):
    code, stored = upload(site, b"mine")
    path = Path(stored.strip('[]"'))
    assert code == 200
    assert path.read_bytes() == b"mine"
    assert site[1] in path.parents
    for file in (path, "/etc/passwd", Path("pyproject.toml").absolute(), "http://127.0.0.1/"):
        for route in (f"file={file}", f"file%3D{file}", f"file/{file}", f"proxy={file}"):
            assert answer(site, "GET", f"/gradio_api/{route}") == (404, "not found")


def ask(site, path, *, meta=None, **headers):
    """What the page answers to the news that the file at ``path`` was uploaded."""
    file = {"path": str(path), "meta": {"_type": "gradio.FileData"} if meta is None else meta}
    body = json.dumps({"data": [file], "fn_index": 0, "session_hash": "mine"})
    return answer(
        site, "POST", "/gradio_api/run/predict", body=body, headers={"Content-Type": "application/json", **headers}
    )


def test_an_upload_is_shown_and_is_gone(site, photo):
    small = photo.with_suffix(".png")
    Image.new("RGB", (20, 20)).save(small)
    path = Path(json.loads(upload(site, small.read_bytes())[1])[0])
    code, shown = ask(site, path)
    assert code == 200
    assert "data:image/png" in shown
    assert not path.exists()
    code, shown = ask(site, path)  # as a second tab does, to which the same file was dropped
    assert code == 200
    assert "a.png is no longer there: drop it once more." in shown
    assert "data:image" not in shown
    assert str(path.parent) not in shown


def test_no_file_but_an_upload_can_be_named(site, photo, asked, monkeypatch):
    monkeypatch.chdir(photo.parent)
    uploaded = Path(json.loads(upload(site, b"mine")[1])[0])
    before = len(asked)
    for path in (
        photo,
        photo.name,
        uploaded.parent / ".." / ".." / ".." / photo.relative_to(photo.anchor),
        "/etc/passwd",
        "/etc/nothing",
        uploaded.parent,
        "",
        "http://127.0.0.2/a.png",
        "\0",
    ):
        refused = 403, "a request may name no file but one that was uploaded"
        assert ask(site, path) == refused
        assert ask(site, uploaded, meta={"a": [{"path": str(path)}]}) == refused
    assert {to[0] for to in asked[before:]} == {"127.0.0.1"}
    assert photo.exists()


@pytest.mark.parametrize("body", [b"{", b"[" * 10_000, b"\xff", b" " * 70_000, b'{"path": 3}'])
def test_what_is_no_question_of_the_page_is_refused(site, body):
    headers = {"Content-Type": "application/json"}
    assert answer(site, "POST", "/gradio_api/run/predict", body=body, headers=headers)[0] == 403


@pytest.mark.parametrize(
    "route",
    ["POST run/take", "POST run/draw", "POST api/predict", "POST call/take", "POST queue/join", "GET queue/data",
     "GET info", "POST component_server", "POST vibe-edit", "GET dev/reload", "GET upload", "GET run/predict"],
)  # fmt: skip
def test_gradios_other_routes_are_shut(site, route):
    method, path = route.split()
    assert answer(site, method, f"/gradio_api/{path}") == (404, "not found")


def raw(site, *lines):
    """The status of the answer to a request that is written line by line."""
    host, port = urllib.parse.urlparse(site[0]).netloc.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_a_foreign_name_of_this_machine_is_refused(site):
    netloc = urllib.parse.urlparse(site[0]).netloc
    port = netloc.partition(":")[2]
    for host in ("127.0.0.1", netloc, f"localhost:{port}", f"LocalHost:{port}", f"[::1]:{port}"):
        assert answer(site, "GET", "/", headers={"Host": host})[0] == 200
    code, text = answer(site, "GET", "/", headers={"Host": "evil.example"})
    assert (code, text) == (421, "this page is served as 127.0.0.1 or [::1] or localhost alone")
    for host in (
        f"evil.example:{port}", "127.0.0.1.evil.example", f"a{{b.evil.example:{port}", 'a"b.evil.example', "a`b",
        "evil.example:99999", "evil.example:abc", "evil.example/", "127.0.0.1@evil.example", "127.0.0.1:a", "[::1",
        "[::1].evil.example", "::1", "",
    ):  # fmt: skip
        assert raw(site, "GET / HTTP/1.1", f"Host: {host}", "Connection: close") in (400, 421), host
    assert raw(site, "GET / HTTP/1.0") == 421
    assert raw(site, "GET / HTTP/1.1", "Host: localhost", "Host: evil.example", "Connection: close") in (400, 421)


def test_another_site_may_not_ask(site):
    netloc = urllib.parse.urlparse(site[0]).netloc
    assert answer(site, "GET", "/", headers={"Origin": f"http://{netloc}"})[0] == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", f"{netloc}", ""):
        assert answer(site, "GET", "/", headers={"Origin": origin}) == (403, "another site may not ask"), origin
        assert upload(site, b"mine", Origin=origin)[0] == 403
    assert raw(site, "GET / HTTP/1.0", "Origin: http://evil.example") == 421


def test_other_machines_may_ask_by_any_name_where_they_may_ask_at_all():
    with served([network()], host="0.0.0.0") as address:
        host = {"Host": "lab.example:7860"}
        assert answer((address,), "GET", "/theme.css", headers=host)[0] == 200
        assert answer((address,), "GET", "/theme.css", headers={**host, "Origin": "http://lab.example:7860"})[0] == 200
        assert answer((address,), "GET", "/theme.css", headers={**host, "Origin": "http://evil.example"})[0] == 403


def test_names_are_in_small_letters_as_browsers_send_them(monkeypatch):
    monkeypatch.setattr("attnconv.explain.web.server.listen", lambda host, port: listen("::1", port))
    server = WebServer(lambda: pytest.fail("no page yet"), host="MyBox", port=0)
    assert server.names == {"mybox", "[::1]", "127.0.0.1", "localhost"}
    server.__exit__()


def test_an_upload_is_as_large_as_a_file_may_be_and_says_so(site):
    limit = 413, "an upload must say its length, at most 3000 bytes"
    assert upload(site, bytes(80_000)) == limit
    assert answer(site, "POST", "/gradio_api/upload", body=iter([b"a", b"b"]), encode_chunked=True)[1] == limit[1]


def test_one_who_leaves_while_asking_is_no_error(site, capfd):
    host, port = urllib.parse.urlparse(site[0]).netloc.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /gradio_api/run/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\na".encode()
        )
        time.sleep(0.2)
    assert answer(site, "GET", "/theme.css")[0] == 200
    time.sleep(0.5)
    assert "Traceback" not in capfd.readouterr().err


def event(site, number, data, tab):
    """What the page's event of this number answers to a browser's tab."""
    body = json.dumps({"data": data, "fn_index": number, "session_hash": tab})
    code, text = answer(
        site, "POST", "/gradio_api/run/predict", body=body, headers={"Content-Type": "application/json"}
    )
    assert code == 200
    return json.loads(text)["data"]


def test_the_image_of_the_tab_that_was_seen_longest_ago_is_forgotten(photo, monkeypatch):
    monkeypatch.setattr("attnconv.explain.web.page.TABS", 2)
    with served([network()], [web_image(photo)]) as address:
        queries = {tab: event((address,), 2, [], tab)[3]["value"] for tab in "abc"}  # 2: as the page is loaded
        messages = {
            tab: event((address,), 4, [None, queries[tab], "layer3.0", "all"], tab)[0]  # 4: as the query moves
            for tab in "bca"
        }
    assert messages["b"] == messages["c"] == ""
    assert "no longer kept" in messages["a"]
