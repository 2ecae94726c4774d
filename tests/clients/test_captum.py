"""captum's attributions through attention, and at attention layers."""

import pytest
import torch
from torch import nn

from attnconv.layers import Attention
from attnconv.models import create_model

captum = pytest.importorskip("captum.attr", reason="make clients installs it")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
NAMES = pytest.mark.parametrize("name", ["aa_resnet18", "ssa_xresnet18"])


def example(name):
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, image_size=32).eval()
    for module in model.modules():
        if isinstance(gamma := getattr(module, "gamma", None), nn.Parameter):
            nn.init.constant_(gamma, 0.3)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # an xresnet's residual paths end in zeros at first
    layer = [m for m in model.modules() if isinstance(m, Attention)][-1]
    return model, layer, torch.rand(2, 3, 32, 32)


@NAMES
def test_integrated_gradients_sum_to_the_change_of_the_output(name):
    model, _, x = example(name)
    found, delta = captum.IntegratedGradients(model).attribute(x, target=1, n_steps=256, return_convergence_delta=True)
    change = (model(x) - model(torch.zeros_like(x)))[:, 1]
    torch.testing.assert_close(found.flatten(1).sum(1), change.double(), rtol=0.02, atol=0.02, check_dtype=False)
    assert delta.abs().max() < 0.02 * change.abs().max() + 0.02


@NAMES
@pytest.mark.parametrize("method", ["LayerGradCam", "LayerActivation", "LayerIntegratedGradients"])
def test_attributions_at_an_attention_layer(name, method):
    model, layer, x = example(name)
    arguments = {} if method == "LayerActivation" else {"target": 1}
    found = getattr(captum, method)(model, layer).attribute(x, **arguments)
    assert found.shape[0] == 2
    assert found.dim() == 4
    assert found.isfinite().all()
    assert found.abs().max() > 0


def test_deeplift_has_no_rule_for_products_of_maps():
    """captum's limit: without attention its attributions sum up to the change of the output, with it they do not."""
    model, layer, x = example("ssa_xresnet18")
    deltas = []
    for gamma in (0.0, 0.3):
        nn.init.constant_(layer.gamma, gamma)
        found, delta = captum.DeepLift(model).attribute(x, target=1, return_convergence_delta=True)
        assert found.shape == x.shape
        deltas.append(float(delta.abs().max()))
    assert deltas[0] < 0.01 < 1 < deltas[1]


def test_deeplift_runs_on_a_resnet_whose_blocks_call_each_relu_once():
    model, _, x = example("aa_resnet18")
    found = captum.DeepLift(model).attribute(x, target=1)
    assert found.shape == x.shape
    assert found.isfinite().all()
