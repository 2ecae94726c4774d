"""torchao quantises the linear layers of our networks, and whole exported networks."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from attnconv.models import create_model

pytest.importorskip("torchao", reason="make clients installs it")
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
NAMES = pytest.mark.parametrize("name", ["aa_resnet18", "ssa_xresnet18"])


def example(name):
    torch.manual_seed(0)
    model = create_model(name, num_classes=64, image_size=32).eval()
    for module in model.modules():
        if isinstance(gamma := getattr(module, "gamma", None), nn.Parameter):
            nn.init.constant_(gamma, 0.3)
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        return model, x, model(x)


def error(y, expected):
    return float((y - expected).norm() / expected.norm())


@NAMES
@pytest.mark.parametrize("config", [Int8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig])
def test_int8_weights_of_linear_layers(name, config):
    model, x, expected = example(name)
    quantised = copy.deepcopy(model)
    quantize_(quantised, config())
    assert type(quantised.fc.weight).__name__ == "Int8Tensor"
    with torch.no_grad():
        assert 0 < error(quantised(x), expected) < 0.05


def exported_and_prepared(model, x):
    quantizer = x86_inductor_quantizer.X86InductorQuantizer()
    quantizer.set_global(x86_inductor_quantizer.get_default_x86_inductor_quantization_config())
    return prepare_pt2e(torch.export.export(model, (x,)).module(), quantizer)


@pytest.mark.parametrize("name", ["ssa_xresnet18", "aa_wide_resnet10_1", "aa_resnet18"])
def test_int8_of_an_exported_network(name):
    model, x, expected = example(name)
    prepared = exported_and_prepared(model, x)
    prepared(x)
    quantised = convert_pt2e(prepared)
    assert sum("quantize" in str(node.target) for node in quantised.graph.nodes) > 20
    with torch.no_grad():
        assert 0 < error(quantised(x), expected) < 0.1


def test_the_exported_quantiser_wants_a_module_for_each_activation():
    """Its limit: torchvision's ResNets call one ReLU several times a block."""
    with pytest.raises(ValueError, match="partition has more than one output node"):
        exported_and_prepared(torchvision.models.resnet18().eval(), torch.rand(2, 3, 32, 32))
