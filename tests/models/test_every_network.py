"""Networks run forward and backward, compile and export: some of them, and, marked slow, all."""

import pytest
import torch

from attnconv import AugmentedConv2d
from attnconv.models import create_model, list_models

# Too large for a quick test on a CPU: their shapes are followed on the meta device.
LARGE = ("101", "152", "28_10")
IMAGE_SIZE = (33, 26)

# Deeper ones of their families are made of the same blocks.
DEEP = ("34", "50", "101", "152", "22_6", "28_10", "40_2")
QUICK = [name for name in list_models() if not name.endswith(DEEP)] + ["resnet50", "aa_resnet50", "xresnet50"]
LISTED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in list_models()]
FAMILIES = ["aa_wide_resnet10_1", "ssa_xresnet18"]
OTHERS = [
    "aa_convnet3",
    "aa_resnet18",
    "convnet3",
    "wide_resnet10_1",
    "se_wide_resnet10_1",
    "resnet18",
    "se_resnet18",
    "aa_resnet50",
    "xresnet18",
    "sa_xresnet18",
]


@pytest.fixture(autouse=True)
def forget_compiled_code():
    """torch.compile gives up on a function after eight variants, and networks share their layers'."""
    torch.compiler.reset()


def device_of(name):
    return torch.device("meta" if name.endswith(LARGE) else "cpu")


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("size", [(27, 17), pytest.param(IMAGE_SIZE, marks=pytest.mark.slow)], ids=str)
def test_it_runs_forward_and_backward(name, size):
    """At an odd, non-square size below image_size, and at image_size."""
    torch.manual_seed(0)
    with device_of(name):
        model = create_model(name, num_classes=7, in_channels=2, image_size=IMAGE_SIZE)
        y = model(torch.randn(2, 2, *size))
    y.square().mean().backward()
    assert y.shape == (2, 7)
    grads = [p.grad for p in model.parameters()]
    assert all(grad is not None for grad in grads)
    if not y.is_meta:
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_it_compiles_and_exports(name):
    torch.manual_seed(0)
    model = create_model(name, num_classes=7, image_size=20).eval()
    x = torch.randn(2, 3, 20, 13)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["10_1", "28_10"])
def test_the_network_of_2019_exports(size):
    with torch.device("meta"):
        model = create_model(f"seed_aa_wide_resnet{size}", num_classes=7, image_size=20).eval()
        exported = torch.export.export(model, (torch.randn(2, 3, 20, 13),))
        assert exported.module()(torch.randn(2, 3, 20, 13)).shape == (2, 7)


@pytest.mark.parametrize("name", ["aa_convnet3", "aa_wide_resnet10_1", "aa_resnet18", "aa_resnet50"])
@pytest.mark.parametrize("position", ["relative", "sine", "coordconv", None])
def test_every_position_on_every_augmented_family(name, position):
    with torch.device("meta"):
        model = create_model(name, num_classes=7, image_size=IMAGE_SIZE, position=position)
        assert model(torch.randn(2, 3, 27, 17)).shape == (2, 7)
    layers = [layer for layer in model.modules() if isinstance(layer, AugmentedConv2d)]
    assert layers
    assert {layer.position for layer in layers} == {position}


def test_positions_that_do_not_exist_name_those_that_do():
    with pytest.raises(ValueError, match=r"unknown position 'none'; .* or None \(null in YAML\)"):
        create_model("aa_convnet3", num_classes=7, image_size=32, position="none")
