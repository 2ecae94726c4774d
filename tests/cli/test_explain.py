"""attnconv explain: pictures, what it says about them, and what it refuses."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.request

import pytest
import torch
from cli.conftest import TRAIN, picture
from cli.test_bad_input import assert_refused
from PIL import Image

from attnconv.cli import main
from attnconv.cli.explain import explain
from attnconv.data import decode_image
from attnconv.explain import attention_maps, see_image
from attnconv.recipes import load_trained
from attnconv.recipes.trained import EXAMPLE

OPTIONS = ["--device", "cpu"]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A run of a network with SimpleSelfAttention."""
    out = tmp_path_factory.mktemp("signed") / "run"
    command = [*TRAIN, "--image-size", "32", "--epochs", "1", "--train-subset", "32"]
    command[command.index("aa_convnet3")] = "ssa_xresnet18"
    assert main([*command, "--out", str(out)]) == 0
    return out


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.effect_noise((40, 20), 60).save(path)
    return path


def drawn(path):
    with Image.open(path) as image:
        image.load()
        return image.format, image.size


def test_the_example_needs_nothing(attnconv, tmp_path):
    code, out, err = attnconv("explain", "--example", *OPTIONS)
    assert (code, err) == (0, "")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["raccoon-attention.png"]
    assert drawn("raccoon-attention.png")[0] == "PNG"
    lines = out.splitlines()
    assert re.fullmatch(r"raccoon\.jpg: raccoon \d+\.\d%; attention of row 240, column 452 in layer2.*", lines[0])
    assert lines[1] == "drawn in raccoon-attention.png"
    code, _, err = attnconv("explain", "--example", "--point", "100,300", "--layer", "layer3.0.conv1", *OPTIONS)
    assert (code, err) == (0, "")
    assert_refused(attnconv("explain", "--example", "--point", "600,0"), "must lie in the image of 600 x 800 pixels")


def test_the_example_explains_a_photo(attnconv, photo):
    code, out, err = attnconv("explain", "--example", photo, "--json", *OPTIONS)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["checkpoint"].startswith(str(EXAMPLE))
    assert (answer["images"][0]["image"], answer["images"][0]["size"]) == (str(photo), [20, 40])
    assert answer["picture"] == "photo-attention.png"


def test_the_page_of_the_example_begins_with_a_photo(attnconv, photo, monkeypatch):
    served = []
    monkeypatch.setattr(sys.modules[explain.__module__], "serve_page", lambda *given, **_: served.append(given))
    assert attnconv("explain", "--example", photo, "--web", *OPTIONS)[0] == 0
    assert served == [([None], photo)]


def test_a_photo_of_which_little_is_seen(attnconv, tmp_path):
    """The network sees 120 x 120 of 1600 x 120 pixels."""
    Image.effect_noise((1600, 120), 60).save(tmp_path / "wide.png")
    code, out, _ = attnconv("explain", "--example", tmp_path / "wide.png", "--layer", "layer3.1.conv1", *OPTIONS)
    assert code == 0
    assert "attention of row 60, column 800 in layer3.1.conv1\n" in out
    assert "\n- the network sees 8 % of this photo: columns 740 to 859\ndrawn in wide-attention.png" in out
    columns, rows = drawn("wide-attention.png")[1]
    assert columns < 4 * rows


def test_a_point_of_the_file_is_mapped_to_the_network(attnconv, finished, photo):
    code, out, err = attnconv("explain", finished, photo, "--point", "15,25", "--json", *OPTIONS)
    assert code == 0, err
    answer = json.loads(out)
    assert answer["checkpoint"] == str(finished / "best.pt")
    assert answer["picture"] == "photo-attention.png"
    assert drawn("photo-attention.png")[0] == "PNG"
    (image,) = answer["images"]
    assert (image["size"], image["network_size"]) == ([20, 40], [8, 8])
    _, said, _ = attnconv("predict", finished, photo, "--top", "1", "--json", "--device", "cpu")
    (likely,) = json.loads(said)["predictions"][0]["top"]
    assert image["prediction"] == {"class": likely["class"], "probability": pytest.approx(likely["probability"])}
    (query,) = image["queries"]
    assert query["point"] == [15, 25]
    assert query["network_point"] == [6, 6]  # 20 rows become 8, of 16 columns the 5th to the 12th are left
    trained = load_trained(finished, device="cpu")
    seen = see_image(decode_image(photo, 1), trained.meta)
    expected = attention_maps(trained.model, seen.prepared, seen.point((15, 25)))
    assert [layer["layer"] for layer in query["layers"]] == ["layer2.0", "layer3.0"]
    for found, wanted in zip(query["layers"], expected, strict=True):
        assert (found["cell"], found["signed"], found["gamma"]) == (list(wanted.query), False, None)
        assert [head["head"] for head in found["heads"]] == [1, 2, 3, 4]
        weights = torch.tensor([head["weights"] for head in found["heads"]])
        assert list(weights.shape[1:]) == found["map_size"]
        torch.testing.assert_close(weights, wanted.weights, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(weights.sum((1, 2)), torch.ones(4), rtol=1e-4, atol=0)


def test_the_middle_is_asked_about_if_no_point_is_given(attnconv, finished, photo):
    code, out, _ = attnconv("explain", finished, photo, *OPTIONS)
    assert code == 0
    assert "attention of row 10, column 20 in layer2.0, layer3.0\n" in out
    _, out, _ = attnconv("explain", finished, photo, "--point", "11,19", *OPTIONS)
    assert "attention of row 11, column 19 in layer2.0, layer3.0\n" in out  # not that of the network's pixel
    assert "- layer3.0 is not drawn: its map of 2 x 2 cells is below 4 x 4\ndrawn in photo-attention.png" in out


def test_one_layer_and_head(attnconv, finished, photo):
    code, out, _ = attnconv(
        "explain", finished, photo, "--layer", "layer2.0", "--head", "3", "--out", "one.svg", "--json", *OPTIONS
    )
    assert code == 0
    (layer,) = json.loads(out)["images"][0]["queries"][0]["layers"]
    assert (layer["layer"], [head["head"] for head in layer["heads"]]) == ("layer2.0", [3])
    with open("one.svg", encoding="utf-8") as file:
        assert file.read().count("<image") == 2


def test_grad_cam_is_drawn_beside_attention(attnconv, finished, photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    refused = r"this needs pytorch_grad_cam: pip install 'attnconv\[cam\]'"
    assert_refused(attnconv("explain", finished, photo, "--grad-cam", *OPTIONS), refused)
    monkeypatch.undo()
    pytest.importorskip("pytorch_grad_cam")
    monkeypatch.chdir(photo.parent)
    for options, count in (([], 2 + 4), (["--grad-cam"], 3 + 4)):
        code, _, err = attnconv("explain", finished, photo, "--out", "cam.svg", *options, *OPTIONS)
        assert (code, err) == (0, "")
        with open("cam.svg", encoding="utf-8") as file:
            assert file.read().count("<image") == count


def test_signed_weights(attnconv, signed, photo):
    code, out, err = attnconv("explain", signed, photo, "--json", *OPTIONS)
    assert code == 0, err
    (layer,) = json.loads(out)["images"][0]["queries"][0]["layers"]
    assert layer["signed"]
    assert isinstance(layer["gamma"], float)
    weights = torch.tensor(layer["heads"][0]["weights"])
    assert list(weights.shape) == layer["map_size"]
    assert weights.abs().sum() > 0
    assert layer["active"] == (layer["logits_moved"] >= 1e-3)


def test_an_inactive_layer_is_said_to_be(attnconv, signed, photo, tmp_path):
    checkpoint = torch.load(signed / "best.pt", weights_only=True)
    name = next(name for name in checkpoint["model"] if name.endswith("attention.gamma"))
    checkpoint["model"][name].zero_()
    torch.save(checkpoint, tmp_path / "closed.pt")
    code, out, err = attnconv("explain", tmp_path / "closed.pt", photo, "--json", *OPTIONS)
    assert code == 0, err
    (layer,) = json.loads(out)["images"][0]["queries"][0]["layers"]
    assert (layer["active"], layer["logits_moved"]) == (False, 0.0)
    _, out, _ = attnconv("explain", tmp_path / "closed.pt", photo, *OPTIONS)
    said = f"- {layer['layer']} is inactive: switching it off moves the logits by 0 of their norm\n"
    assert said in out


def test_a_saved_network_is_a_run(attnconv, tmp_path, finished, photo):
    assert attnconv("hub", "save", finished, tmp_path / "mine")[0] == 0
    assert attnconv("explain", tmp_path / "mine", photo, *OPTIONS)[0] == 0


def test_a_tampered_file_is_one_line(attnconv, tmp_path, photo):
    weights = shutil.copytree(EXAMPLE, tmp_path / "bad") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 4
    weights.write_bytes(content)
    outcome = attnconv("explain", tmp_path / "bad", photo)
    assert_refused(outcome, r"model.safetensors is damaged or was changed: config.json has another checksum for it")


def test_names_that_matplotlib_would_read_as_formulas(attnconv, finished, tmp_path):
    path = picture(tmp_path / "a$x_{$ 猫.png")
    code, _, err = attnconv("explain", finished, path, *OPTIONS)
    assert (code, err) == (0, "")
    assert drawn("a$x_{$ 猫-attention.png")[0] == "PNG"


BAD_OPTIONS = [
    (["--point", "20,0"], "the point must lie in the image of 20 x 40 pixels, got 20,0"),
    (["--point=-1,0"], "the point must lie in the image of 20 x 40 pixels, got -1,0"),
    (["--point", "0,0"], "the point 0,0 is cut away .* rows 0 to 19 and columns 10 to 29 are left"),
    (["--point", "3"], "--point must be Y,X, a row and a column in pixels such as 40,60; got '3'"),
    (["--point", "1.5,2"], "--point must be Y,X, .*got '1.5,2'"),
    (["--points", "grid"], "attnconv explain --points was removed; draw a row for each point in Python"),
    (["--layer", "layer3.0"], "nothing to draw: layer3.0 has 2 x 2 cells; a picture needs 4 x 4"),
    (["--layer", "layer2"], "unknown attention layer 'layer2'; nearest: 'layer2.0'"),
    (["--layer", "?"], "unknown attention layer '\\?'; known: layer2.0, layer3.0"),
    (["--head", "5"], "attention layer 'layer2.0' has no head 5: its heads are 1 to 4"),
    (["--head", "0"], "head must be at least 1, got 0"),
    (["--out", "a.jpeg"], "--out must end in .png, .svg, .pdf, got a.jpeg"),
    (["--out", "nowhere/a.png"], "cannot write nowhere/a.png: No such file"),
    (["--example"], "--example takes the packaged network: leave out the RUN, .*run"),
    (["--compare", "other"], "--compare needs --web"),
    (["--host", "127.0.0.1"], "--host needs --web"),
    (["--port", "7860"], "--port needs --web"),
    *(
        ([*given, "--web"], f"--web serves an interactive page: leave out {given[0]}")
        for given in (
            ["--point", "3,15"],
            ["--layer", "layer2.0"],
            ["--head", "1"],
            ["--out", "a.png"],
            ["--json"],
        )
    ),
    (["--example", "--web"], "--example takes the packaged network: leave out the RUN, .*run"),
    (["--web", "--port", "0"], "--port must be at least 1, got 0"),
    (["--web", "--port", "65536"], "--port must be at most 65535, got 65536"),
    (["--web", "--compare", "nowhere"], "nowhere is neither a run folder nor a checkpoint"),
    (["--web", "--host", "a..b"], r"no host 'a\.\.b' to listen on"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=[" ".join(options) for options, _ in BAD_OPTIONS])
def test_bad_options_get_one_line_and_leave_nothing(attnconv, finished, photo, tmp_path, options, message):
    assert_refused(attnconv("explain", finished, photo, *options, *OPTIONS), message)
    assert list((tmp_path / "here").iterdir()) == []


def test_the_picture_does_not_replace_the_image(attnconv, finished, photo):
    before = photo.read_bytes()
    assert_refused(attnconv("explain", finished, photo, "--out", photo), "--out must be another file than IMAGE")
    assert photo.read_bytes() == before


def test_runs_and_images_that_are_none(attnconv, finished, photo, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    refused = r"explain needs a RUN and an IMAGE \(optional with --web\), or --example"
    assert_refused(attnconv("explain"), refused)
    assert_refused(attnconv("explain", finished), f"explain needs an IMAGE after the RUN {finished}, or --web")
    refused = "explain needs a RUN before the image; --example takes the packaged network"
    assert_refused(attnconv("explain", photo), refused)
    assert_refused(attnconv("explain", photo, "--web"), refused)
    assert_refused(attnconv("explain", "PHOTO.JPG"), refused)
    assert_refused(
        attnconv("explain", finished, tmp_path / "notes.png"), "cannot decode image .*notes.png: it is no im"
    )
    assert_refused(attnconv("explain", finished, tmp_path / "b.png"), "cannot read image .*b.png: No such file")
    assert_refused(attnconv("explain", finished, tmp_path), "cannot read image .*: Is a directory")
    assert_refused(attnconv("explain", tmp_path / "run", photo), "is neither a run folder nor a checkpoint")


def test_a_network_without_attention(attnconv, tmp_path, photo):
    command = [*TRAIN, "--epochs", "1", "--train-subset", "32", "--out", tmp_path / "plain"]
    command[command.index("aa_convnet3")] = "convnet3"
    assert attnconv(*command)[0] == 0
    assert_refused(attnconv("explain", tmp_path / "plain", photo), "ConvNet3 has no attention layer to explain")
    assert_refused(attnconv("explain", tmp_path / "plain", "--web"), "ConvNet3 has no attention layer to explain")


def test_a_page_that_cannot_be_made_is_refused_in_a_line(attnconv, finished, photo, tmp_path, monkeypatch):
    (tmp_path / "notes.png").write_text("no image")
    refused = "cannot decode image .*notes.png: it is no image"
    assert_refused(attnconv("explain", finished, tmp_path / "notes.png", "--web"), refused)
    assert_refused(attnconv("explain", "--web"), "explain needs a RUN and an IMAGE")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = attnconv("explain", "--example", "--web", "--port", port)
        assert_refused(outcome, f"cannot listen on port {port} of 127.0.0.1: .*in use; name another --port")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert_refused(attnconv("explain", finished, "--web"), r"this needs uvicorn: pip install 'attnconv\[demo\]'")


@pytest.mark.parametrize(("number", "outcome"), [(signal.SIGINT, (0, "")), (signal.SIGTERM, (143, "terminated"))])
def test_a_page_is_served_until_a_signal_and_leaves_nothing(
    attnconv, finished, photo, tmp_path, monkeypatch, number, outcome
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page = []

    def visit():
        for _ in range(600):
            with contextlib.suppress(OSError):
                page.append(urllib.request.urlopen(f"http://127.0.0.1:{port}/networks", timeout=60).read().decode())
                break
            time.sleep(0.1)
        if page:  # else the signal would end the tests
            os.kill(os.getpid(), number)

    visitor = threading.Thread(target=visit)
    visitor.start()
    code, out, err = attnconv("explain", finished, photo, "--web", "--compare", EXAMPLE, "--port", port, *OPTIONS)
    visitor.join()
    assert f"http://127.0.0.1:{port} (Ctrl-C ends it)" in out.splitlines()
    assert (code, err) == (outcome[0], outcome[1] and f"attnconv: error: {outcome[1]}\n")
    assert str(finished) in page[0]
    assert str(EXAMPLE) in page[0]
    assert list((tmp_path / "temporary").iterdir()) == []
