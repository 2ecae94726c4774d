"""The network that the package brings, and the packed files it is one of."""

import dataclasses
import json
import struct

import pytest
import torch

from attnconv.checks import InputError
from attnconv.data import load_data
from attnconv.explain import attention_layers
from attnconv.recipes import load_trained
from attnconv.recipes.example import CONFIG, EXAMPLE, example_images, load_example, make_example
from attnconv.recipes.packed import load_packed, save_packed
from attnconv.train.evaluate import evaluate


def test_it_scores_what_it_says():
    trained = load_example("cpu")
    data = load_data("far-pairs")
    assert trained.meta["images"] == data.meta()["images"]
    scores = evaluate(trained.model, data.val_loader(batch_size=144, device=torch.device("cpu"), workers=0))
    assert scores.count == trained.scores["validation_images"] == 576
    assert scores.top1 == pytest.approx(trained.scores["top1"], abs=100 / 576)  # an image that another CPU rounds
    assert trained.scores["top1"] >= 98


def test_it_is_small_and_knows_its_origin():
    trained = load_example("cpu")
    assert EXAMPLE.stat().st_size < 2_000_000
    assert trained.config == CONFIG
    assert trained.scores["command"] == "python -m attnconv.recipes.example"
    assert {"torch", "attnconv", "commit", "device", "seconds"} <= trained.scores.keys()
    assert list(attention_layers(trained.model).values()) == ["layer3.0"]
    assert not trained.model.training


def test_its_images_are_told_apart_by_the_far_glyph():
    trained = load_example("cpu")
    same, different = example_images()
    assert (same.label, different.label) == ("same", "different")
    assert same.point == different.point
    assert same.image.getpixel(same.point[::-1]) >= 128
    left, right = (shown.image.crop((0, 0, 16, 16)).tobytes() for shown in (same, different))
    assert left == right
    assert same.image.tobytes() != different.image.tobytes()
    assert trained.meta["classes"] == ["same", "different"]


def test_it_is_made_anew(tmp_path, capsys):
    config = dataclasses.replace(CONFIG, epochs=1, train_subset=64)
    make_example(tmp_path / "new.safetensors", config)
    trained = load_trained(tmp_path / "new.safetensors", device="cpu")
    assert trained.config == config
    assert f"top-1 {trained.scores['top1']:.2f}% of 576 images" in capsys.readouterr().out
    own = load_example("cpu").model.state_dict()
    assert {name: tensor.shape for name, tensor in trained.model.state_dict().items()} == {
        name: tensor.shape for name, tensor in own.items()
    }


WEIGHTS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7), "empty": torch.zeros(0, 2)}
TEXTS = {"config": {"model": "convnet3"}, "meta": {"classes": ["x", "y"]}, "scores": {"top1": 50.0}}


@pytest.fixture
def packed(tmp_path):
    save_packed(tmp_path / "a.safetensors", WEIGHTS, **TEXTS)
    return tmp_path / "a.safetensors"


def test_a_packed_file_holds_what_was_put_in(packed):
    found = load_packed(packed)
    assert found.keys() == {"model", *TEXTS}
    assert {name: found[name] for name in TEXTS} == TEXTS
    assert found["model"].keys() == WEIGHTS.keys()
    assert all(torch.equal(found["model"][name], tensor) for name, tensor in WEIGHTS.items())


def header(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(path, words, tensors):
    text = json.dumps(words).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


@pytest.mark.parametrize("where", [-1, -8, -20])
def test_a_changed_tensor_is_noticed(packed, where):
    content = bytearray(packed.read_bytes())
    content[where] ^= 1
    packed.write_bytes(content)
    with pytest.raises(InputError, match=r"a.safetensors was changed or damaged since it was written: its checksum"):
        load_packed(packed)


@pytest.mark.parametrize("name", ["meta", "config", "scores"])
def test_changed_words_are_noticed(packed, name):
    words, tensors = header(packed)
    words["__metadata__"][name] = json.dumps({"classes": ["y", "x"]})
    write(packed, words, tensors)
    with pytest.raises(InputError, match="its checksum does not fit"):
        load_packed(packed)


def test_tensors_that_were_swapped_are_noticed(packed):
    words, tensors = header(packed)
    words["b"]["shape"] = [3, 2]
    write(packed, words, tensors)
    with pytest.raises(InputError, match="its checksum does not fit"):
        load_packed(packed)


@pytest.mark.parametrize("missing", ["format", "sha256", "meta"])
def test_files_of_others_are_refused(packed, missing):
    words, tensors = header(packed)
    del words["__metadata__"][missing]
    write(packed, words, tensors)
    with pytest.raises(InputError, match="is not a network that attnconv has packed: its metadata has no format"):
        load_packed(packed)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 100, None])
def test_what_is_no_safetensors_file_is_refused(packed, content):
    packed.write_bytes(packed.read_bytes()[:-5] if content is None else content)
    with pytest.raises(InputError, match="cannot be read, is cut short or is no safetensors file: ") as caught:
        load_packed(packed)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint at .*b.safetensors"):
        load_packed(tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"cannot write .*a.safetensors: No such file"):
        save_packed(tmp_path / "nowhere" / "a.safetensors", WEIGHTS, **TEXTS)


def test_another_networks_weights_are_refused(tmp_path):
    trained = load_example("cpu")
    weights = {**trained.model.state_dict(), "fc.weight": torch.zeros(3, 192)}
    save_packed(tmp_path / "a.safetensors", weights, config=trained.config.to_dict(), meta=trained.meta, scores={})
    with pytest.raises(InputError, match=r"'fc.weight' is \(3, 192\) in it and \(2, 192\) in this network"):
        load_trained(tmp_path / "a.safetensors")
