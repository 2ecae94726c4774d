"""Safetensors: weights, config and meta there and back, and files that are changed, damaged or another's."""

import dataclasses
import json
import os
import struct

import pytest
import torch
from export.untrained import config, meta, network

from attnconv import export, surgery
from attnconv.models import from_pretrained
from attnconv.recipes import load_trained

SIZE = (16, 13)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    model = network("ssa_xresnet18", SIZE, symmetric=True)
    settings = config("ssa_xresnet18", symmetric=True)
    written = export.export_weights(model, path, config=settings, meta=meta(SIZE))
    assert written.largest.largest == 0
    return model, path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path, settings = tmp_path_factory.mktemp("small") / "model.safetensors", config("aa_convnet3", num_heads=2)
    model = network("aa_convnet3", SIZE, num_heads=2)
    export.export_weights(model, path, config=settings, meta=meta(SIZE), scores={"top1": 50.0})
    return path


def test_there_and_back(saved):
    model, path = saved
    found = export.load_exported(path)
    assert found.facts == export.Facts(config("ssa_xresnet18", symmetric=True), meta(SIZE))
    assert not found.model.training
    assert not [name for name in found.model.state_dict() if "parametrizations" in name]
    x = torch.randn(2, 2, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), model(x), rtol=0, atol=0)


def test_a_folded_network_is_saved_as_it_is(saved, tmp_path):
    model = export.load_network(saved[1]).model
    model.save_pretrained(tmp_path / "folder")
    again = from_pretrained(tmp_path / "folder")
    assert again.state_dict().keys() == model.state_dict().keys()
    x = torch.randn(2, 2, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(again(x), saved[0](x), rtol=0, atol=0)
    settings = config("ssa_xresnet18", symmetric=True)
    export.export_weights(again, tmp_path / "more.safetensors", config=settings, meta=meta(SIZE))
    assert export.load_exported(tmp_path / "more.safetensors").facts == export.load_exported(saved[1]).facts


def test_any_weights_with_facts(tmp_path):
    shared = torch.randn(3, 5)
    weights = {"a": shared.mT, "b": shared, "half": torch.randn(4).half(), "one": torch.tensor(3)}
    weights["empty"] = torch.zeros(0, 2)
    told = export.Facts({"model": "mine"}, meta(8, dense=True, images={"count": 3}), scores={"top1": 50.0})
    export.save_weights(tmp_path / "w.safetensors", weights, told)
    found, facts = export.load_weights(tmp_path / "w.safetensors")
    torch.testing.assert_close(found, weights, rtol=0, atol=0)
    assert facts == told
    with pytest.raises(ValueError, match=r"w.safetensors: unknown model 'mine'; "):
        export.load_network(tmp_path / "w.safetensors")


def flip_a_bit(at):
    def flip(data):
        data[at] ^= 1
        return data

    return flip


def change(old, new):
    """Words of the header for others of the same length."""
    assert len(old) == len(new)

    def changed(data):
        assert data.count(old) == 1
        return data.replace(old, new)

    return changed


def leave_out(name):
    def left_out(data):
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        del header["__metadata__"][name]
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return left_out


CHANGED = "is damaged or was changed: its contents do not have the checksum"
UNREADABLE = "is damaged or no file of safetensors: "


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        *((flip_a_bit(at), CHANGED) for at in (-1, -8, -20)),
        (change(b'\\"two\\"', b'\\"TWO\\"'), CHANGED),
        (change(b'\\"mean\\": [0.5, 0.4]', b'\\"mean\\": [0.5, 0.3]'), CHANGED),
        (change(b'\\"num_heads\\": 2', b'\\"num_heads\\": 4'), CHANGED),
        (change(b'\\"top1\\": 50.0', b'\\"top1\\": 90.0'), CHANGED),
        (change(b'"fc.weight":{"dtype":"F32","shape":[3,192]', b'"fc.weight":{"dtype":"F32","shape":[192,3]'), CHANGED),
        (leave_out("attnconv_sha256"), CHANGED),
        (leave_out("attnconv_format"), "was not written by attnconv export: its metadata hold no 'attnconv_format'"),
        (
            change(b'"attnconv_format":"1"', b'"attnconv_format":"9"'),
            "is an export of format '9', this version reads '1'",
        ),
        (leave_out("preprocessing"), "is damaged: its metadata hold no readable 'preprocessing'"),
        (lambda data: data[:-100], UNREADABLE),
        (lambda data: data[:3], UNREADABLE),
        (lambda data: b"", UNREADABLE),
        (lambda data: b"no file of safetensors", UNREADABLE),
        (lambda data: b"\xff" * 100, UNREADABLE),
        (lambda data: None, "no safetensors file at "),
    ],
)
def test_a_tampered_file_is_refused_in_one_line(small, tmp_path, spoil, message):
    path = tmp_path / "model.safetensors"
    if (data := spoil(bytearray(small.read_bytes()))) is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as refused:
        export.load_exported(path)
    assert len(str(refused.value).splitlines()) == 1
    assert str(path) in str(refused.value)


def test_a_file_of_others_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors was not written by attnconv export: "):
        export.load_exported(tmp_path / "other.safetensors")


def test_a_file_that_cannot_be_written(saved, tmp_path):
    weights, facts = export.load_weights(saved[1])
    with pytest.raises(ValueError, match=r"cannot write .*a.safetensors: No such file"):
        export.save_weights(tmp_path / "nowhere" / "a.safetensors", weights, facts)


def test_weights_of_another_network_are_refused(saved, tmp_path):
    weights, facts = export.load_weights(saved[1])
    export.save_weights(tmp_path / "w.safetensors", weights, export.Facts(config("xresnet18"), facts.meta))
    with pytest.raises(
        ValueError, match=r"w.safetensors does not hold .* of 'xresnet18': unexpected key 'layer1.1.attention"
    ):
        export.load_exported(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("size", "image_size", "kept"),
    [
        ((40, 24), None, {"layer2.0": (20, 12), "layer3.0": (10, 6)}),  # images are prepared as before
        (32, 32, None),  # as the network of this size has them
        (32, 12, {"layer2.0": (16, 16), "layer3.0": (8, 8)}),
    ],
)
def test_resized_tables_there_and_back(tmp_path, size, image_size, kept):
    model, path = network("aa_convnet3", 16), tmp_path / "w.safetensors"
    surgery.resize_feat_size(model, size)
    settings = {"config": config("aa_convnet3"), "meta": meta(16), "image_size": image_size}
    assert export.export_weights(model, path, **settings).largest.largest == 0
    found = load_trained(path, device="cpu")
    assert found.model.blueprint.feat_sizes == kept
    assert found.meta["image_size"] == [image_size or 16] * 2
    torch.testing.assert_close(found.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    x = torch.randn(2, 2, 32, 24)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), model(x), rtol=0, atol=0)
    again = tmp_path / "again.safetensors"
    export.export_weights(found.model, again, **settings)
    (one, facts), (other, others) = export.load_weights(path), export.load_weights(again)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert facts == others


@pytest.mark.parametrize(
    ("feat_sizes", "message"),
    [
        (
            {"layer9.0": (3, 3)},
            r"w.safetensors: unknown layer in feat_sizes of aa_convnet3: 'layer9.0'; nearest: 'layer",
        ),
        ({"layer2.0": (3, 3, 3)}, r"w.safetensors: feat_size must be one integer or 2"),
        ({"layer2.0": 3}, r"w.safetensors: 'feat_sizes' must give each layer a list of integers"),
        (
            {"layer2.0": (10**9, 3)},
            r"w.safetensors does not hold .*'layer2.0.key_rel_h' is \(15, 32\) in it and \(19999",
        ),
    ],
)
def test_sizes_of_tables_that_do_not_fit(small, tmp_path, feat_sizes, message):
    weights, facts = export.load_weights(small)
    export.save_weights(tmp_path / "w.safetensors", weights, dataclasses.replace(facts, feat_sizes=feat_sizes))
    with pytest.raises(ValueError, match=message):
        export.load_exported(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        (
            config("aa_convnet3"),
            {"image_size": 33},
            r"images of 33 x 33 are larger .*resize_feat_size\(model, \(33, 33\)",
        ),
        (config("aa_convnet3"), {"image_size": 4}, "at least 8 x 8 pixels"),
        (
            config("convnet3"),
            {},
            "this network is not the 'convnet3' of config and meta: missing key 'layer2.0.weight'",
        ),
        (config("aa_convnet3", num_head=2), {}, "config: unknown option of aa_convnet3: 'num_head'; nearest"),
        (
            {},
            {},
            "again by name, and config's 'model' is None; export_onnx and export_program take any network, save_w",
        ),
        ({"model": "mine"}, {}, "config's 'model' is 'mine'; export_onnx and"),
    ],
)
def test_networks_that_cannot_be_built_again(tmp_path, settings, more, message):
    with pytest.raises(ValueError, match=message) as refused:
        export.export_weights(
            network("aa_convnet3", 16), tmp_path / "w.safetensors", config=settings, meta=meta(16), **more
        )
    assert len(str(refused.value)) < 300
    assert list(tmp_path.iterdir()) == []


def test_a_sparse_file_larger_than_the_memory(tmp_path, monkeypatch):
    path, size = tmp_path / "w.safetensors", 30 * 2**30
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 2**20 if name == "SC_PHYS_PAGES" else real(name))
    with pytest.raises(ValueError, match=r"w\.safetensors has [\d]+ bytes, more than this machine has memory$"):
        export.load_exported(path)


def test_an_unknown_suffix_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"unknown suffix of an exported network '.onx'; nearest: '.onnx'"):
        export.load_exported(tmp_path / "model.onx")
