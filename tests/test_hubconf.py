"""torch.hub: every network from a checkout, without an installation."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attnconv.models import create_model, list_models

ROOT = Path(__file__).parents[1]


def load(name, **settings):
    return torch.hub.load(str(ROOT), name, source="local", **settings)


def test_the_entries_are_the_networks():
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(hubconf)
    assert sys.path == before
    entries = {name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")}
    assert entries == {*list_models(), *list_models(dense=True), "from_pretrained"}
    assert "num_classes=100, image_size=32" in hubconf.aa_convnet3.__doc__


@pytest.mark.parametrize(
    ("name", "side", "shape"),
    [("aa_convnet3", 32, (2, 100)), ("resnet18", 64, (2, 1000)), ("unet", 16, (2, 2, 16, 16))],
)
def test_a_name_makes_its_network(name, side, shape):
    assert load(name).eval()(torch.randn(2, 3, side, side)).shape == shape


def test_settings_are_create_model_s():
    torch.manual_seed(0)
    expected = create_model("aa_convnet3", num_classes=3, in_channels=1, image_size=(9, 12), augment=(3,))
    torch.manual_seed(0)
    found = load("aa_convnet3", num_classes=3, in_channels=1, image_size=(9, 12), augment=(3,))
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_a_saved_network(tmp_path):
    pytest.importorskip("huggingface_hub")
    model = load("convnet3", num_classes=3).eval()
    model.save_pretrained(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load("from_pretrained", pretrained_model_name_or_path=tmp_path)(x), model(x))


def test_it_takes_the_package_beside_it(tmp_path):
    """In a process that has none, from another folder; what is loaded later comes from there too."""
    code = f"""
import sys
sys.path = [p for p in sys.path if p and not p.endswith(("/src", "/tests"))]
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f)]
import torch
model = torch.hub.load({str(ROOT)!r}, "aa_convnet3", source="local", num_classes=2)
assert model(torch.randn(1, 3, 32, 32)).shape == (1, 2)
print(sys.modules["attnconv"].__file__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "src" / "attnconv" / "__init__.py")
