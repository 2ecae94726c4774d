import subprocess
import sys

import pytest
import yaml

from attnconv.checks import InputError, InputTypeError
from attnconv.train.config import RunConfig, read_yaml, without_folders, yaml_text, yaml_value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, r"unknown option in run.yaml 'epoch'; nearest: 'epochs'"),
        ({"optimizer": "adaamw"}, r"run.yaml: unknown optimizer 'adaamw'; nearest: 'adamw'"),
        ({"schedule": "onecycle"}, r"unknown schedule 'onecycle'; nearest: 'one-cycle'"),
        ({"precision": "bf-16"}, r"unknown precision 'bf-16'; nearest: 'bf16'"),
        ({"device": "gpu"}, r"unknown device 'gpu'"),
        ({"epochs": 0}, r"run.yaml: epochs must be at least 1, got 0"),
        ({"train_subset": 0}, r"train_subset must be at least 1, got 0"),
        ({"workers": -1}, r"workers must be at least 0, got -1"),
        ({"seed": 2**63}, r"seed must be at least 0 and below 2\*\*63, got 9223372036854775808"),
        ({"warmup": 1.0}, r"warmup must be at least 0 and below 1, got 1.0"),
        ({"base_momentum": 0.8}, r"base_momentum is one end of a cycle: give max_momentum, too"),
        ({"max_momentum": 0.8}, r"max_momentum is one end of a cycle: give base_momentum, too"),
        (
            {"momentum": 0.9, "base_momentum": 0.8, "max_momentum": 0.95},
            r"momentum 0.9 is constant, and base_momentum 0.8 and max_momentum 0.95 cycle it: give the one, or",
        ),
        (
            {"base_momentum": 0.8, "max_momentum": 0.95, "schedule": "cosine"},
            r"base_momentum and max_momentum belong to schedule 'one-cycle', got schedule 'cosine'",
        ),
        ({"base_momentum": 0.8, "max_momentum": 1.0}, r"max_momentum must be at least 0 and below 1, got 1.0"),
        ({"momentum": float("nan")}, r"momentum must be at least 0 and below 1, got nan"),
        ({"lr": 10**400}, r"lr must be finite, got an integer of more than 300 digits"),
        ({"clip": 10**400}, r"clip must be finite, got an integer of more than 300 digits"),
        ({"lr": 0}, r"lr must be positive and finite, got 0.0"),
        ({"lr": float("nan")}, r"lr must be positive and finite, got nan"),
        ({"checkpoint_steps": 0}, r"checkpoint_steps must be at least 1, got 0"),
        ({"accumulate": 0}, r"accumulate must be at least 1, got 0"),
        ({"accumulate": 9, "batch_size": 8}, r"accumulate must be at most batch_size, 8, got 9"),
        ({"clip": 0}, r"clip must be positive, got 0.0"),
        ({"clip": float("nan")}, r"clip must be positive, got nan"),
        ({"ema": 1}, r"ema must be above 0 and below 1, got 1.0"),
        ({"devices": 0}, r"devices must be at least 1, got 0"),
        ({"devices": "all"}, r"unknown devices 'all'; known: auto"),
        ({"nodes": 0}, r"nodes must be at least 1, got 0"),
        ({"on_nan": "skipp"}, r"unknown on_nan 'skipp'; nearest: 'skip'"),
        ({"crop_scale": 0.0}, r"crop_scale must be above 0 and at most 1, got 0.0"),
        ({"crop_scale": 1.5}, r"crop_scale must be above 0 and at most 1, got 1.5"),
        ({"random_erasing": -0.1}, r"random_erasing must be at least 0 and at most 1, got -0.1"),
        ({"random_erasing": 1.1}, r"random_erasing must be at least 0 and at most 1, got 1.1"),
        ({"mixup": -1.0}, r"mixup must be at least 0, got -1.0"),
        ({"cutmix": -0.5}, r"cutmix must be at least 0, got -0.5"),
        ({"weight_decay": -1.0}, r"weight_decay must be finite and not negative, got -1.0"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(InputError, match=message):
        RunConfig.from_dict(values, source="run.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], r"run.yaml must hold names and values, got list"),
        (None, r"run.yaml must hold names and values, got NoneType"),
        ({"epochs": 3.0}, r"run.yaml: epochs must be int, got 3.0"),
        ({"epochs": True}, r"epochs must be int, got True"),
        ({"epochs": "3"}, r"epochs must be int, got '3'"),
        ({"epochs": None}, r"epochs must be int, got None"),
        ({"devices": 1.5}, r"devices must be int, got 1.5"),
        ({"lr": "fast"}, r"lr must be float, got 'fast'"),
        ({"lr": True}, r"lr must be float, got True"),
        ({"model": 3}, r"model must be str, got 3"),
        ({"skip_bad_images": 1}, r"skip_bad_images must be bool, got 1"),
        ({"image_size": "32"}, r"image_size must be int, got '32'"),
        ({"model_options": [1]}, r"model_options must be dict, got \[1\]"),
        ({"model_options": {"a": {"b": [object]}}}, r"model_options\['a'\]\['b'\]\[0\] must hold plain values"),
        ({"model_options": {1: 2}}, r"model_options must hold plain values .* got \{1: 2\}"),
    ],
)
def test_ill_typed_values(values, message):
    with pytest.raises(InputTypeError, match=message):
        RunConfig.from_dict(values, source="run.yaml")


def test_strategy_was_removed():
    assert RunConfig.from_dict({"strategy": "ddp", "epochs": 3}, source="run.yaml") == RunConfig(epochs=3)
    with pytest.raises(InputError, match=r"run.yaml: strategy was removed; several processes train with DDP, leave it"):
        RunConfig.from_dict({"strategy": "fsdp"}, source="run.yaml")


def test_an_integer_passes_as_a_float():
    assert type(RunConfig(lr=1).lr) is float


@pytest.mark.parametrize("text", ["1e-3", "1.e-3", "1E-03", "10e-4"])
def test_yaml_numbers_without_a_point(text):
    assert RunConfig.from_dict(yaml.safe_load(f"lr: {text}"), source="run.yaml").lr == 1e-3


def test_yaml_round_trip():
    config = RunConfig(model_options={"sizes": (3, 5), "deep": {"ratio": 0.25}}, lr=1e-5, data_dir="d", device="cpu")
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    assert text.startswith("model: aa_convnet3\nmodel_options:\n  sizes:\n  - 3\n")
    assert RunConfig.from_dict(yaml.safe_load(text), source="run.yaml") == config


def test_a_configuration_keeps_its_own_options():
    options = {"width": [3]}
    config = RunConfig(model_options=options)
    options["width"].append(4)
    assert config.model_options == {"width": [3]}


def test_the_configuration_loads_no_torch():
    code = "import sys, attnconv.train, attnconv.train.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Numbers and names as YAML writes them


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-1", 0.2), ("1E3", 1000.0), ("-3e+2", -300.0), ("1e5", 1e5), ("0.5", 0.5), (".5", 0.5), ("1.", 1.0),
        ("12", 12), ("-7", -7), ("+7", 7), ("1_000", "1_000"), ("0x1F", "0x1F"), ("0o17", "0o17"),
        ("010", 10), ("0777", 777), ("00", 0), ("08", 8),
        ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("1:30.5", "1:30.5"), ("2024-01-31", "2024-01-31"),
        (".inf", float("inf")), ("-.inf", float("-inf")), ("e5", "e5"), ("1e", "1e"), ("1.2.3", "1.2.3"), (".", "."),
        ("true", True), ("yes", True), ("null", None), ("~", None), ("'2e-1'", "2e-1"), ("-", [None]),
    ],
)  # fmt: skip
def test_plain_values(text, value):
    found = yaml_value(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text", ["2e-1", "1:30", "010", "0o17", "2024-01-31", "1_000", ".5", "yes", "null", "x", "1e5"]
)
def test_text_stays_text_when_it_is_written(text):
    value = {"model_options": {"word": text, "words": [text], text: 1}}
    assert yaml_value(yaml_text(value)) == value


@pytest.mark.parametrize("number", [0.2, 1e-5, 1e20, 31, -7, 1e300, 123456789.0])
def test_numbers_stay_numbers_when_they_are_written(number):
    found = yaml_value(yaml_text({"a": number}))["a"]
    assert (found, type(found)) == (number, type(number))


def test_numbers_inside_options_and_steps(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "model_options: {key_ratio: 2e-1, deep: [{ratio: 1e-2}]}\n"
        "attention: [{augment: {where: 'layer4', value_ratio: 1e-1}}]\n"
    )
    config = RunConfig.from_dict(read_yaml(path), source=str(path))
    assert config.model_options == {"key_ratio": 0.2, "deep": [{"ratio": 0.01}]}
    assert config.attention[0]["augment"]["value_ratio"] == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 1\nlr: 0.1\nepochs: 2\n", "cannot read .*run.yaml: 'epochs' stands twice in line 3"),
        ("model_options: {a: 1, a: 2}\n", "'a' stands twice in line 1"),
        ("attention:\n- augment: {where: x, where: y}\n", "'where' stands twice in line 2"),
        ("? [a, b]\n: 1\n", "a name must be one word, got a list or names in line 1"),
        ("a: !!python/object/apply:os.system [ls]\n", "cannot read .*run.yaml: .*could not determine a constructor"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_yaml(path)


# Rectangles


@pytest.mark.parametrize(
    ("given", "kept", "written"),
    [
        (64, 64, 64), ([64, 64], 64, 64), ("64x64", 64, 64), (None, None, None),
        ([48, 96], (48, 96), [48, 96]), ((48, 96), (48, 96), [48, 96]), ("48x96", (48, 96), [48, 96]),
    ],
)  # fmt: skip
def test_image_sizes(given, kept, written):
    config = RunConfig(image_size=given)
    assert (config.image_size, config.to_dict()["image_size"]) == (kept, written)
    assert RunConfig.from_dict(yaml_value(yaml_text(config.to_dict())), source="run.yaml") == config


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ([48], r"image_size must be int, got \[48\]; rows and columns are written 128x192"),
        ([48, 96, 3], r"image_size must be int, got \[48, 96, 3\]"),
        ("48", r"image_size must be int, got '48'"),
        ("48 x 96", r"image_size must be int, got '48 x 96'"),
        ([48, 9.5], r"image_size must be int, got \[48, 9.5\]"),
        (True, r"image_size must be int, got True"),
        ([48, 0], r"image_size must be at least 1, got 0"),
        ("5000x20", r"image_size must be at most 4096 per side, got 5000"),
    ],
)
def test_image_sizes_that_are_none(size, message):
    with pytest.raises(InputError, match=message):
        RunConfig(image_size=size)


@pytest.mark.parametrize("share", [0, 1.0, -0.1])
def test_val_split_is_a_share(share):
    with pytest.raises(InputError, match=r"val_split must be above 0 and below 1, got "):
        RunConfig(val_split=share)


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ("digits", True),
        ("torchvision:SVHN", True),
        ("hf:mnist", True),
        ("hf:user/some.photos", True),
        ("hf:mine/photos", False),  # which is there
        ("hf:/home/me", False),
        ("hf:../photos", False),
        ("hf:my/own/photos", False),
        ("mine/photos", False),
    ],
)
def test_names_of_data_leave_the_machine_and_folders_do_not(tmp_path, monkeypatch, data, kept):
    (tmp_path / "mine" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert without_folders({"data": data})["data"] == (data if kept else "FOLDER")


@pytest.mark.parametrize(
    "text",
    ["a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30)), "a: &a [*a]\n"],
)
def test_aliases_that_grow_without_end_are_refused(text):
    with pytest.raises(ValueError, match=r"^it holds itself or, with those of its aliases, more than 100,000 values$"):
        yaml_value(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a {x: 1}\nb: {<<: [*a, *a]}\n", "<< takes one alias, got something else in line 2"),
        (
            "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: *a{n - 1}, x{n}: 1}}\n" for n in range(1, 500)),
            "its << copy more than 100,000 values",
        ),
        (f"a: {'[' * 100}{']' * 100}\n", "lists and names are nested more than 100 deep, in line 1$"),
        ("\n" + "- " * 1_000_000, "lists and names are nested more than 100 deep, in line 2$"),
        (
            "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 2000)) + "<<: *a1999\n",
            "its aliases are nested too deeply$",
        ),
        ("".join(f"x{n}: 1\n" for n in range(100_001)), "it holds itself or, with those of its aliases, more than"),
    ],
)
def test_merged_and_nested_values_are_bounded(text, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        yaml_value(text)


def test_values_within_the_bounds():
    assert yaml_value("[" * 100 + "]" * 100)
    assert yaml_value("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_aliases_of_usual_size():
    assert yaml_value("a: &a [1, 2]\nb: [*a, *a]\n") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
