"""Facts: what could not be read back, or contradicts itself, is refused before it is written."""

import json

import numpy as np
import pytest
import torch
from export.untrained import config, meta

from attnconv.export import Facts
from attnconv.export.facts import read_facts

NAMES = "classes, channels, image_size, mean, std, resize_ratio"


@pytest.mark.parametrize(
    "given",
    [
        {"resize_ratio": 1},
        {"mean": np.array([0.5, 0.25]), "std": (np.float32(1), 1)},
        {"mean": torch.tensor([0.5, 0.25]), "classes": ("one", "two", "three")},
        {"image_size": 9, "channels": np.int64(2)},
        {"images": {"count": np.int64(3)}},
    ],
)
def test_what_is_meant_is_read_back_as_plain_values(given):
    facts = Facts(config("unet"), {**meta(9), **given}, scores={"top1": np.float64(50), "torch": torch.__version__})
    assert facts.meta["image_size"] == [9, 9]
    assert type(facts.meta["resize_ratio"]) is float
    assert {type(n) for name in ("mean", "std") for n in facts.meta[name]} == {float}
    assert read_facts(facts.to_texts(), "a file") == facts


@pytest.mark.parametrize("name", NAMES.split(", "))
def test_what_is_missing(name):
    given = {key: value for key, value in meta(9).items() if key != name}
    with pytest.raises(ValueError, match=f"^meta lacks '{name}'; it needs {NAMES}$"):
        Facts({}, given)


BAD = [
    ({"classes": []}, r"meta's 'classes' must be a list of names, got \[\]"),
    ({"classes": "one"}, "meta's 'classes' must be a list of names, got 'one'"),
    ({"classes": [1, 2, 3]}, "meta's 'classes' must be a list of names, got"),
    ({"channels": 2.5}, "meta's 'channels' must be an integer, got 2.5"),
    ({"channels": 3}, r"meta's 'mean' must list one number a channel, 3, got \[0.5, 0.4\]"),
    ({"image_size": [9, 0]}, "meta's 'image_size' must be at least 1, got 0"),
    ({"image_size": [9, 9, 9]}, "meta's 'image_size' must be one integer or 2, one for each axis"),
    ({"mean": [0.5]}, r"meta's 'mean' must list one number a channel, 2, got \[0.5\]"),
    ({"mean": 0.5}, "meta's 'mean' must list one number a channel, 2, got 0.5"),
    ({"mean": [0.5, "0.4"]}, "meta's 'mean' must be a number, got '0.4'"),
    ({"mean": [0.5, float("nan")]}, "meta's 'mean' must be finite, got nan"),
    ({"mean": [0.5, 10**400]}, "meta's 'mean' must be finite, got an integer of more than 300 digits"),
    ({"std": [0.5, 0]}, "meta's 'std' must be above 0, got"),
    ({"resize_ratio": "1"}, "meta's 'resize_ratio' must be a number, got '1'"),
    ({"resize_ratio": 0}, "meta's 'resize_ratio' must be above 0, got 0"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_meta_that_could_not_be_used(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Facts({}, {**meta(9), **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"meta": None}, "meta must hold names and values, got NoneType"),
        ({"meta": {**meta(9), "name": object()}}, "meta must hold plain values"),
        ({"scores": {(1, 2): 50.0}}, "scores must hold plain values: keys must be str"),
        ({"scores": {"top1": object()}}, "scores must hold plain values .*, got <object"),
        ({"config": None}, "config must hold names and values, got NoneType"),
        ({"config": {"modle": "unet"}}, "unknown option in config 'modle'; nearest: 'model'"),
        ({"config": {"epochs": 0}}, "config: epochs must be at least 1, got 0"),
    ],
)
def test_other_values_that_could_not_be_read_back(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Facts(**{"config": {}, "meta": meta(9), **given})


@pytest.mark.parametrize(("given", "message"), [case for case in BAD if "classes" not in case[0]])
def test_a_file_that_holds_such_a_thing(given, message):
    texts = Facts({}, meta(9)).to_texts()
    texts["preprocessing"] = json.dumps({**json.loads(texts["preprocessing"]), **given})
    with pytest.raises(ValueError, match=f"^a file: {message}"):
        read_facts(texts, "a file")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scores", "^a file is damaged: its metadata hold no readable 'scores'$"),
        ("image_sizes", "^a file is damaged: its 'image_sizes' cannot be read: it is nested more than 100 deep$"),
    ],
)
def test_texts_that_are_nested_too_deep(name, message):
    texts = {**Facts({}, meta(9)).to_texts(), name: "[" * 10**6}
    with pytest.raises(ValueError, match=message):
        read_facts(texts, "a file")
