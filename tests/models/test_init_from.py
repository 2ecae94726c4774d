"""Pretrained starts: what is copied, cut and left, from each kind of source, and what is refused."""

import argparse
import hashlib
import http.server
import threading
from functools import partial

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models._api import Weights, WeightsEnum

from attnconv.models import Transfer, create_model
from attnconv.models.init_from import given_weights, initialise

make = partial(create_model, num_classes=6, image_size=32)


@pytest.fixture(scope="module")
def weights():
    """Of torchvision's resnet18, for six classes."""
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=6).state_dict()


def test_without_it_the_model_alone_is_returned():
    assert isinstance(make("aa_resnet18"), torch.nn.Module)


def test_an_augmented_convolution_keeps_the_first_filters(weights):
    model, transfer = make("aa_resnet18", init_from=weights)
    state = model.state_dict()
    augmented = [f"layer{stage}.{block}.conv1" for stage in (2, 3, 4) for block in (0, 1)]
    assert transfer.cut == tuple(f"{name}.conv_out.weight" for name in augmented)
    attention = ("qkv_conv.weight", "attn_out.weight", "key_rel_h", "key_rel_w")
    assert set(transfer.left) == {f"{name}.{part}" for name in augmented for part in attention}
    assert len(transfer.copied) + len(transfer.cut) + len(transfer.left) == len(state)
    assert all(torch.equal(state[name], weights[name]) for name in transfer.copied)
    assert "fc.weight" in transfer.copied
    for name in augmented:
        kept = state[f"{name}.conv_out.weight"]
        assert 0 < len(kept) < len(weights[f"{name}.weight"])
        assert torch.equal(kept, weights[f"{name}.weight"][: len(kept)])


def test_other_classes_and_channels_leave_the_ends(weights):
    _, transfer = create_model("resnet18", num_classes=7, in_channels=1, image_size=32, init_from=weights)
    assert transfer.left == ("conv1.weight", "fc.weight", "fc.bias")
    assert transfer.cut == ()


def test_a_plain_network_gives_the_same_outputs(weights):
    model, transfer = make("aa_resnet18", stages=(), init_from=weights)
    theirs = torchvision.models.resnet18(num_classes=6)
    theirs.load_state_dict(weights)
    x = torch.randn(2, 3, 32, 21)
    assert torch.equal(model.eval()(x), theirs.eval()(x))
    assert (transfer.cut, transfer.left) == ((), ())


def test_a_fully_attentional_layer_has_nothing_to_keep(weights):
    _, transfer = make("aa_resnet18", value_ratio=1.0, init_from=weights)
    assert transfer.cut == ()


def test_weights_of_our_own_augmented_network():
    torch.manual_seed(0)
    first = make("aa_wide_resnet10_1")
    again, transfer = make("aa_wide_resnet10_1", init_from=first.state_dict())
    assert (transfer.cut, transfer.left) == ((), ())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    _, transfer = create_model("aa_wide_resnet10_1", num_classes=6, image_size=16, init_from=first.state_dict())
    assert {name.rpartition(".")[2] for name in transfer.left} == {"key_rel_h", "key_rel_w"}


def test_a_transfer_prints_as_a_table():
    cut = ("layer2.0.conv2.conv_out.weight",)
    transfer = Transfer(copied=("conv1.weight", "bn1.weight"), cut=cut, left=("a", "b"), unused=("c",))
    assert str(transfer).splitlines() == [
        "copied    2",
        "cut       1  layer2.0.conv2.conv_out.weight",
        "left      2  a",
        "             b",
        "unused    1  c",
    ]
    assert str(Transfer((), (), (), ())).splitlines() == ["copied    0", "cut       0", "left      0", "unused    0"]


@pytest.mark.parametrize("wrap", [None, "model", "state_dict", "module."])
@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_files_of_torch_save(weights, tmp_path, wrap, kind):
    path = tmp_path / "weights.pt"
    if wrap == "module.":
        weights = {"state_dict": {f"module.{key}": value for key, value in weights.items()}, "epoch": 3}
    elif wrap:
        weights = {wrap: weights}
    torch.save(weights, path)
    assert len(make("resnet18", init_from=kind(path))[1].left) == 0


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_whole_module_of_torchvision(weights, tmp_path, new):
    theirs = torchvision.models.resnet18(num_classes=6)
    theirs.load_state_dict(weights)
    saved = {"net": torch.nn.DataParallel(theirs), "args": argparse.Namespace(lr=0.1)}
    torch.save(saved, tmp_path / "ckpt.t7", _use_new_zipfile_serialization=new)
    model, transfer = make("resnet18", init_from=tmp_path / "ckpt.t7")
    assert transfer.left == ()
    assert str(transfer).startswith("taken        net, without 'module.'\ncopied  122\n")
    assert torch.equal(model.fc.weight, weights["fc.weight"])


def test_files_of_safetensors(weights, tmp_path):
    save_file(weights, tmp_path / "weights.safetensors")
    assert len(make("resnet18", init_from=tmp_path / "weights.safetensors")[1].left) == 0


@pytest.fixture
def server(weights, tmp_path, monkeypatch):
    """torchvision's resnet18 weights, downloaded from 127.0.0.1; yields the folder of the files."""
    (tmp_path / "files").mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "files")
    monkeypatch.setattr(handler.func, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        torch.save(weights, tmp_path / "files" / "w.pth")
        digest = hashlib.sha256((tmp_path / "files" / "w.pth").read_bytes()).hexdigest()[:8]
        name = f"resnet18-{digest}.pth"
        (tmp_path / "files" / "w.pth").rename(tmp_path / "files" / name)
        url = f"http://127.0.0.1:{httpd.server_port}/{name}"
        local = WeightsEnum("Local", {"DEFAULT": Weights(url=url, transforms=lambda x: x, meta={})})
        asked = []
        monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: asked.append(name) or local)
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
        yield tmp_path / "files" / name, asked
        httpd.shutdown()


@pytest.mark.parametrize("name", ["resnet18", "aa_resnet18", "se_resnet18"])
def test_torchvision_s_weights_are_downloaded(server, weights, name):
    _, asked = server
    model, transfer = make(name, init_from="torchvision")
    assert asked == ["resnet18"]
    assert torch.equal(model.conv1.weight, weights["conv1.weight"])
    assert "fc.weight" in transfer.copied


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "cannot get http://127.*: HTTP Error 404"),
        (lambda file: file.write_bytes(b"short"), "cannot get http://127.*: invalid hash value"),
    ],
)
def test_a_download_that_fails(server, spoil, message):
    spoil(server[0])
    with pytest.raises(ValueError, match=message):
        make("resnet18", init_from="torchvision")


SPOILT = {
    "bytes": (
        lambda t: t.to(torch.uint8),
        r"'layer4\.1\.conv2\.weight' is of torch\.uint8, and weights are of one of",
    ),
    "complex": (lambda t: t.to(torch.complex64), r"is of torch\.complex64, and weights are of one of"),
    "quantised": (
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        r"is of torch\.qint8, and weights are of one of",
    ),
    "sparse": (lambda t: t.to_sparse(), r"'layer4\.1\.conv2\.weight' is not a plain tensor"),
    "not a number": (
        lambda t: t.fill_(float("nan")),
        r"'layer4\.1\.conv2\.weight' holds a number that is not finite",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_weights_to_compute_with_or_none(weights, case):
    spoil, message = SPOILT[case]
    name = "layer4.1.conv2.weight"
    model = make("resnet18")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"^the state dict cannot be the start of resnet18: .*{message}"):
        initialise(model, "resnet18", given_weights({**weights, name: spoil(weights[name].clone())}, "resnet18"))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_counts_of_an_average_are_taken(weights):
    counts = {key: torch.tensor(2.5) for key in weights if key.endswith("num_batches_tracked")}
    model, _ = make("resnet18", init_from={**weights, **counts})
    assert model.state_dict()["bn1.num_batches_tracked"] == 2


class Planted:
    def __reduce__(self):
        return print, ("run",)


def saved(value):
    def save(path):
        torch.save(value, path / "w.pt")
        return path / "w.pt"

    return save


def text(name):
    def save(path):
        (path / name).write_text("not weights")
        return path / name

    return save


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda path: path / "w.pt", r"no file .*w\.pt to take weights from"),
        (lambda path: path, "no file .* to take weights from"),
        (saved(Planted()), r"w\.pt holds no tensors by name: it holds no dict, but '(builtins|__builtin__)\.print'"),
        (text("w.pt"), r"w\.pt is cut short or damaged, or no file of torch\.save: it does not begin as one"),
        (text("w.safetensors"), r"w\.safetensors is damaged or not a safetensors file: "),
        (saved([1, 2]), r"w\.pt holds no tensors by name"),
        (lambda _: {}, "the state dict holds no tensors by name"),
        (
            lambda _: {"fc.weight": torch.zeros(6, 512), "bn1.bias": torch.zeros(64)},
            "nothing in the state dict fits resnet18: it holds 'fc.weight'",
        ),
        (lambda _: {"a.weight": torch.zeros(3, 4)}, r"nothing in the state dict fits resnet18: it holds 'a.weight'"),
        (
            lambda _: torchvision.models.shufflenet_v2_x0_5(num_classes=6).state_dict(),
            r"nothing in the state dict fits resnet18: it holds 'conv1\.0\.weight' of shape \(24, 3, 3, 3\)",
        ),
        (lambda _: 3, "init_from must be 'torchvision', 'timm', a path or a state dict, got int"),
    ],
)
def test_bad_sources_get_a_sentence(tmp_path, capsys, source, message):
    with pytest.raises(ValueError, match=message) as caught:
        make("resnet18", init_from=source(tmp_path))
    assert len(str(caught.value).splitlines()) == 1
    assert capsys.readouterr().out == ""  # what a pickle wants to run is not run


@pytest.mark.parametrize("name", ["xresnet18", "wide_resnet10_1", "convnet3"])
def test_networks_that_torchvision_has_not(name):
    with pytest.raises(ValueError, match=f"torchvision has no weights for {name}; give init_from a file"):
        make(name, init_from="torchvision")


@pytest.mark.parametrize(("source", "name"), [("resnet18", "wide_resnet16_4"), ("resnet18", "aa_resnet50")])
def test_another_family_is_refused_and_leaves_the_network_alone(source, name):
    state = create_model(source, num_classes=7, image_size=32).state_dict()
    with pytest.raises(ValueError, match=f"is not of a plain network of {name}'s family: it has nothing for"):
        create_model(name, num_classes=7, image_size=32, init_from=state)


def test_what_was_not_used_is_told():
    state = create_model("resnet18", num_classes=7, image_size=32).state_dict()
    _, transfer = create_model("aa_resnet18", num_classes=7, image_size=32, value_ratio=1.0, init_from=state)
    assert len(transfer.unused) == 6
    assert all(name.endswith("conv1.weight") for name in transfer.unused)
    assert "unused    6" in str(transfer)


def test_prefixes_of_compile_and_data_parallel_are_stripped():
    plain = create_model("resnet18", num_classes=7, image_size=32)
    state = {f"module._orig_mod.{name}": value for name, value in plain.state_dict().items()}
    model, _ = create_model("aa_resnet18", num_classes=7, image_size=32, init_from=state)
    assert torch.equal(model.conv1.weight, plain.conv1.weight)


def test_the_meta_device_has_no_room_for_weights():
    state = create_model("resnet18", num_classes=7, image_size=32).state_dict()
    with torch.device("meta"), pytest.raises(ValueError, match="aa_resnet18 is on the meta device"):
        create_model("aa_resnet18", num_classes=7, image_size=32, init_from=state)
