"""Safetensors: weights, config and meta there and back, and files that are changed, damaged or another's."""

import re

import pytest
import torch
from export.untrained import config, meta, network

from attnconv import export

SIZE = (16, 13)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    model = network("ssa_xresnet18", SIZE, symmetric=True)
    written = export.export_weights(model, path, config=config("ssa_xresnet18", symmetric=True), meta=meta(SIZE))
    assert written.largest.largest == 0
    return model, path


def test_there_and_back(saved):
    model, path = saved
    found = export.load_exported(path)
    assert (found.facts.config, found.facts.meta) == (config("ssa_xresnet18", symmetric=True), meta(SIZE))
    assert not found.model.training
    assert not [name for name in found.model.state_dict() if "parametrizations" in name]
    x = torch.randn(2, 2, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), model(x), rtol=0, atol=0)


def test_any_weights_with_facts(tmp_path):
    shared = torch.randn(3, 5)
    weights = {"a": shared.mT, "b": shared, "half": torch.randn(4).half(), "one": torch.tensor(3)}
    export.save_weights(tmp_path / "w.safetensors", weights, config={"model": "mine"}, meta=meta(8, dense=True))
    found, settings, facts = export.load_weights(tmp_path / "w.safetensors")
    torch.testing.assert_close(found, weights, rtol=0, atol=0)
    assert (settings, facts) == ({"model": "mine"}, meta(8, dense=True))
    with pytest.raises(ValueError, match=r"w.safetensors: unknown model 'mine'; "):
        export.load_network(tmp_path / "w.safetensors")


def flip_a_bit(path, data):
    data = bytearray(data)
    data[-100] ^= 1
    path.write_bytes(data)


def change_the_facts(path, data):
    assert b'\\"two\\"' in data
    path.write_bytes(data.replace(b'\\"two\\"', b'\\"TWO\\"', 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_a_bit, "was changed: its contents do not have the checksum"),
        (change_the_facts, "was changed: its contents do not have the checksum"),
        (lambda path, data: path.write_bytes(data[:-100]), "is damaged or no safetensors file: "),
        (lambda path, data: path.write_bytes(data[:3]), "is damaged or no safetensors file: "),
        (lambda path, data: path.write_bytes(b""), "is damaged or no safetensors file: "),
        (lambda path, data: None, "no safetensors file at "),
    ],
)
def test_a_tampered_file_is_refused_in_one_line(saved, tmp_path, change, message):
    path = tmp_path / "model.safetensors"
    change(path, saved[1].read_bytes())
    with pytest.raises(ValueError, match=f"{message}") as refused:
        export.load_exported(path)
    assert len(str(refused.value).splitlines()) == 1
    assert str(path) in str(refused.value)


def test_a_file_of_others_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors was not written by attnconv export"):
        export.load_exported(tmp_path / "other.safetensors")


def test_weights_of_another_network_are_refused(saved, tmp_path):
    weights, _, facts = export.load_weights(saved[1])
    export.save_weights(tmp_path / "w.safetensors", weights, config=config("xresnet18"), meta=facts)
    with pytest.raises(ValueError, match=re.escape("does not hold the weights of 'xresnet18': 'layer1.1.attention.")):
        export.load_exported(tmp_path / "w.safetensors")


def test_another_size_needs_other_tables(saved, tmp_path):
    with pytest.raises(ValueError, match=r"for images of 16 x 13; .*resize_feat_size\(model, 20\)"):
        export.export_weights(
            saved[0], tmp_path / "w.safetensors", config=config("ssa_xresnet18"), meta=meta(SIZE), image_size=20
        )
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"unknown suffix of an exported network '.onx'; nearest: '.onnx'"):
        export.load_exported(tmp_path / "model.onx")
