"""torch.fx takes each attention layer as one node: traces, features, fusion, quantisation."""

import copy

import pytest
import torch
import torch.fx
import torchvision
from layers.test_transforms import LAYERS, make
from surgery.networks import UNet
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.fx.experimental.optimization import fuse
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from attnconv import Attention, SelfAttention, surgery
from attnconv.models import create_model, list_models

# One network a family, and of each kind of attention.
QUICK = ("convnet3", "aa_convnet3", "aa_wide_resnet10_1", "aa_resnet18", "sa_xresnet18", "ssa_xresnet18")
NAMES = [*list_models(), *list_models(dense=True)]
LISTED = [name if name in (*QUICK, "unet", "aa_unet") else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def attention_nodes(graph):
    called = [graph.get_submodule(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    return [module for module in called if isinstance(module, Attention)]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_in_a_network(name):
    layer, x = make(name)
    model = nn.Sequential(nn.Identity(), nn.Sequential(layer.eval()), nn.ReLU())
    graph = torch.fx.symbolic_trace(model)
    assert attention_nodes(graph) == [layer]
    assert torch.equal(graph(x), model(x))
    other = x[:1, ..., :-1]  # sizes are not part of the graph
    assert torch.equal(graph(other), model(other))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_alone_is_refused_in_a_sentence(name):
    layer, _ = make(name)
    with pytest.raises(
        ValueError, match=rf"torch\.fx records {type(layer).__name__} as one node: trace a network that"
    ):
        torch.fx.symbolic_trace(layer)


class Doubled(Attention):
    """Somebody's own, whose forward asks for the numbers themselves."""

    def forward(self, y, *, more=1.0):
        return y * 2 if y.mean() > more else y


class Quadrupled(Doubled):
    def forward(self, y, *, more=1.0):
        return super().forward(super().forward(y, more=more), more=more)


@pytest.mark.parametrize("layer", [Doubled(), Quadrupled()])
def test_a_layer_of_the_users_own_and_its_arguments_by_name(layer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(y=x, more=0.5) + 1

    graph, x = torch.fx.symbolic_trace(Net()), torch.ones(1, 2, 3, 3)
    assert attention_nodes(graph) == [layer]
    assert torch.equal(graph(x), Net()(x))


@pytest.mark.parametrize("name", LISTED)
def test_a_network(name):
    torch.manual_seed(0)
    with torch.device("meta"):
        model = create_model(name, num_classes=3, image_size=32).eval()
    graph = torch.fx.symbolic_trace(model)
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    assert {id(layer) for layer in attention_nodes(graph)} == {id(layer) for layer in layers}
    x = torch.zeros(2, 3, 32, 24, device="meta")
    assert graph(x).shape == model(x).shape


@pytest.mark.parametrize("name", ["aa_convnet3", "aa_unet", "ssa_xresnet18"])
def test_a_graph_computes_the_same(name):
    torch.manual_seed(0)
    model, x = create_model(name, num_classes=3, image_size=32).eval(), torch.randn(2, 3, 32, 24)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


def operated(kind):
    torch.manual_seed(0)
    if kind == "unet":
        model, image_size, x = UNet(), 16, torch.randn(2, 1, 16, 16)
        where, after = r"bottom\.0", ["bottom", "join.1"]
    else:
        model, image_size, x = torchvision.models.resnet18(num_classes=5), 32, torch.randn(2, 3, 32, 32)
        where, after = r"layer4\.0\.conv[12]", ["layer1.1", "layer2"]
    model, _ = surgery.augment(
        model, image_size=image_size, where=where, key_ratio=0.1, value_ratio=0.1, num_heads=2, min_head_dim=2
    )
    kind = kind if kind not in ("unet", "resnet18") else "simple"
    model, _ = surgery.add_self_attention(model, after=after, image_size=image_size, kind=kind)
    for module in model.modules():
        if hasattr(module, "gamma"):
            nn.init.constant_(module.gamma, 0.5)
    return model.eval(), x


@pytest.mark.parametrize("kind", ["unet", "resnet18", "sagan", "timm:se", "timm:cbam", "timm:gc"])
def test_networks_after_surgery(kind):
    if kind.startswith("timm:"):
        pytest.importorskip("timm")
    model, x = operated(kind)
    graph = torch.fx.symbolic_trace(model)
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    assert len(attention_nodes(graph)) == len(layers) >= 3
    assert torch.equal(graph(x), model(x))


def test_features_of_a_layer_by_its_name():
    model, x = operated("resnet18")
    _, names = get_graph_node_names(model)
    assert {"layer2.attention", "layer4.0.conv1"} <= set(names)
    features = create_feature_extractor(model, ["layer2.attention", "layer4.0.conv1"])(x)
    seen = []
    with torch.no_grad():
        handle = model.layer2.register_forward_hook(lambda *call: seen.append(call[2]))
        model(x)
        handle.remove()
    assert torch.equal(features["layer2.attention"], seen[0])
    assert features["layer4.0.conv1"].shape == (2, 512, 1, 1)


def test_convolutions_are_fused_with_batch_norm():
    model, x = operated("resnet18")
    fused = fuse(copy.deepcopy(model))
    norms = [[m for m in net.modules() if isinstance(m, nn.BatchNorm2d)] for net in (fused, model)]
    assert len(norms[0]) == 2 < len(norms[1])  # those behind the two augmented convolutions
    torch.testing.assert_close(fused(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["unet", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_quantisation_leaves_the_layers_in_float(kind):
    model, x = operated(kind)
    prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping("fbgemm"), (x,))
    with torch.no_grad():
        prepared(x)
        quantised = convert_fx(prepared)
        assert len([m for m in quantised.modules() if isinstance(m, Attention)]) >= 3
        assert (quantised(x) - model(x)).norm() < 0.2 * model(x).norm()


def test_networks_of_too_few_pixels_still_say_so():
    for name, least in (("convnet3", 8), ("unet", 4)):
        model = create_model(name, num_classes=3, image_size=32)
        with pytest.raises(ValueError, match=rf"at least {least} x {least} pixels, got \(2, 32\)"):
            model(torch.zeros(1, 3, 2, 32))


def test_compile_and_export_look_inside():
    model, x = nn.Sequential(SelfAttention(6)).eval(), torch.randn(2, 6, 3, 5)
    nn.init.ones_(model[0].gamma)
    graphs = []
    torch.compile(model, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)(x)
    program = torch.export.export(model, (x,))
    for graph in (graphs[0].graph, program.graph):
        assert sum("softmax" in str(n.target) or "attention" in str(n.target) for n in graph.nodes) >= 1
    torch.testing.assert_close(program.module()(x), model(x))


def test_a_mask_is_an_argument_of_the_node():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = SelfAttention(6)
            nn.init.ones_(self.attention.gamma)

        def forward(self, x, mask):
            return self.attention(x, mask=mask)

    model, x = Network().eval(), torch.randn(2, 6, 3, 5)
    mask = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x, mask), model(x, mask))
    assert not torch.equal(traced(x, mask), model(x, torch.ones_like(mask)))
