"""The example that trains a small SAGAN on digits."""

import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from attnconv import SelfAttention

SCRIPT = Path(__file__).parents[2] / "examples" / "sagan_digits.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("sagan_digits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_short_and_takes_the_public_interface_alone():
    text = SCRIPT.read_text()
    assert text.count("\n") < 150
    assert re.findall(r"^(?:from|import) (attnconv.*)", text, re.M) == ["attnconv import SelfAttention"]


def test_images_and_networks_fit_each_other(example):
    images, generator = example.load_images(), example.make_generator()
    assert images.shape == (1797, 1, 16, 16)
    assert (images.min().item(), images.max().item()) == (-1, 1)
    made = generator(torch.randn(3, example.NOISE))
    assert made.shape == (3, 1, 16, 16)
    assert example.make_discriminator()(made).shape == (3, 1)


def test_the_penalty_is_that_of_the_slope(example):
    """A network whose slope is known everywhere has a known penalty."""
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 1))
    torch.nn.init.constant_(linear[1].weight, 0.25)  # a slope of norm 4
    images = torch.randn(2, 5, 1, 16, 16)
    assert example.gradient_penalty(linear, *images).item() == pytest.approx(9, rel=1e-4)


@pytest.mark.parametrize("loss", ["hinge", "wgan-gp"])
def test_a_step_moves_every_parameter(example, loss, monkeypatch):
    networks = []

    def opened(make):
        network = make()
        for module in network:
            if isinstance(module, SelfAttention):  # behind a closed gate nothing else has a gradient
                torch.nn.init.constant_(module.gamma, 0.5)
        networks.append(network)
        return network

    for name in ("make_generator", "make_discriminator"):
        monkeypatch.setattr(example, name, functools.partial(opened, getattr(example, name)))
    torch.manual_seed(0)
    example.train(1, loss, batch_size=4)
    assert len(networks) == 2
    for network in networks:
        assert sum(isinstance(module, SelfAttention) for module in network) == 1
        for name, parameter in network.named_parameters():
            assert parameter.grad.isfinite().all(), name
            # A bias before batch norm has no effect; nor has the last one on a slope, or on the difference of scores.
            assert parameter.grad.any() or name.endswith("bias"), name


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["hinge", "wgan-gp"])
def test_the_command_draws_its_samples(loss, tmp_path):
    command = [sys.executable, SCRIPT, "--loss", loss, "--steps", "5", "--out", tmp_path / "digits.png"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.fullmatch(
        r"step 5, \d+ s: loss of the discriminator \S+, of the generator \S+, gammas \S+ and \S+\n", said
    )
    with Image.open(tmp_path / "digits.png") as picture:
        assert picture.size == (2 * 8 * 18, 2 * 8 * 18)
        assert picture.convert("L").getpixel((0, 0)) > 200  # paper is light
