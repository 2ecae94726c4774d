"""The shared argument checks and their messages."""

import errno
import re
from importlib import metadata

import pytest

from attnconv import checks


def test_nearest_names_the_closest_word():
    assert checks.nearest("convnet33", ["convnet3", "aa_convnet3"]) == "nearest: 'convnet3'"


def test_nearest_lists_all_where_none_is_close():
    assert checks.nearest("zebra", ["cpu", "auto"]) == "known: auto, cpu"


@pytest.mark.parametrize(("value", "message"), [(True, "got True"), (1.0, "got 1.0"), ("3", "got '3'")])
def test_only_integers_are_integers(value, message):
    with pytest.raises(TypeError, match=f"width must be an integer, {message}"):
        checks.integer("width", value, at_least=0)


def test_every_input_error_is_a_value_error():
    with pytest.raises(ValueError, match="width must be an integer"):
        checks.integer("width", None, at_least=0)


def test_one_integer_stands_for_all_axes():
    assert checks.per_axis("stride", 2, 3, at_least=1) == (2, 2, 2)


def test_a_wrong_number_of_axes_is_refused():
    with pytest.raises(ValueError, match=r"stride must be one integer or 2, .* got \(1, 2, 3\)"):
        checks.per_axis("stride", (1, 2, 3), 2, at_least=1)


def test_a_missing_package_says_how_to_install_it():
    with pytest.raises(ImportError, match=r"this needs no_such_package: pip install 'attnconv\[train\]'"):
        checks.require("no_such_package", extra="train")


def test_an_integer_that_no_float_holds_is_not_finite():
    with pytest.raises(ValueError, match=r"^lr must be finite, got an integer of more than 300 digits$"):
        checks.number("lr", 10**400)
    assert checks.number("lr", 10**300) == 1e300


@pytest.mark.parametrize("text", ["[" * 101 + "]" * 101, '{"a":' * 150 + "1" + "}" * 150, "[" * 10**6])
def test_json_that_is_nested_too_deep(text):
    with pytest.raises(ValueError, match=r"^it is nested more than 100 deep$"):
        checks.from_json(text)


def test_json_within_bounds():
    assert checks.from_json(b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert checks.from_json("[" * 100 + "]" * 100)


@pytest.mark.parametrize(
    ("name", "known", "nearest"),
    [
        ("AdamW", ["sgd", "adam", "adamw", "radam"], "adamw"),
        ("SGD", ["sgd", "adam"], "sgd"),
        (32, ["fp32", "tf32", "bf16", "fp16"], "fp32"),
        (16, ["fp32", "tf32", "bf16", "fp16"], "bf16"),
        ("one_cycle", ["cosine", "one-cycle"], "one-cycle"),
        ("ResNet50", ["resnet18", "resnet50", "aa_resnet50"], "resnet50"),
        ("cos", ["one-cycle", "flat-cosine", "cosine"], "cosine"),
        ("pos", ["width", "position-encodings-of-all-kinds"], "position-encodings-of-all-kinds"),
        ("learning_rate_of_adam", ["sgd", "adam"], "adam"),
    ],
)
def test_nearest_names_ignore_case_and_length(name, known, nearest):
    assert checks.nearest(name, known) == f"nearest: {nearest!r}"


def test_the_closest_come_first():
    known = ["layer1", "Layer3", "fc", "layer3.0"]
    assert checks.closest("layer-3", known, 3) == ["Layer3", "layer3.0", "layer1"]


def test_no_name_is_near_nothing():
    assert checks.nearest("", ["b", "a"]) == "known: a, b"
    assert checks.nearest("a", []) == "known: "


def test_other_errors_are_explained():
    with pytest.raises(checks.InputError, match=r"^it is: No such file$"), checks.explained("it is", OSError):
        raise FileNotFoundError(errno.ENOENT, "No such file", "it")
    with pytest.raises(checks.InputError, match=r"^it: KeyError\('epoch'\)$"), checks.explained("it", reason=repr):
        raise KeyError("epoch")


def test_errors_of_other_kinds_and_input_errors_stay_as_they_are():
    with pytest.raises(ZeroDivisionError), checks.explained("cannot open it", OSError):
        raise ZeroDivisionError
    with pytest.raises(checks.InputTypeError, match=r"^lr must be float$"), checks.explained("it is damaged"):
        raise checks.InputTypeError("lr must be float")


def test_a_prefix_keeps_the_kind_of_error():
    with pytest.raises(checks.InputTypeError, match=r"^run.yaml: lr must be float$"), checks.prefixed("run.yaml"):
        raise checks.InputTypeError("lr must be float")


def test_a_library_of_another_build_is_named(monkeypatch):
    def of_another_build(package):
        raise RuntimeError("operator torchvision::nms does not exist\n(and more)")

    monkeypatch.setattr(checks, "import_module", of_another_build)
    versions = f"torchvision {metadata.version('torchvision')} and torch {metadata.version('torch')}"
    message = (
        f"{versions} do not fit together (operator torchvision::nms does not exist): install both anew, from one index"
    )
    with pytest.raises(checks.InputError, match=f"^{re.escape(message)}$"):
        checks.require("torchvision.ops", extra="train")


def test_errors_of_other_libraries_stay_as_they_are(monkeypatch):
    def damaged(package):
        raise OSError("libz.so.1: cannot open shared object file")

    monkeypatch.setattr(checks, "import_module", damaged)
    with pytest.raises(OSError, match=r"^libz\.so\.1: cannot open"):
        checks.require("onnxruntime", extra="onnx")
