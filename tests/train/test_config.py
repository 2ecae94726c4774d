import subprocess
import sys

import pytest
import yaml

from attnconv.checks import InputError, InputTypeError
from attnconv.train.config import RunConfig


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
        ({"seed": 2**63}, r"seed must be below 2\*\*63, got 9223372036854775808"),
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
