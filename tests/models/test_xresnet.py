"""XResNet: its tricks, its options, and where the attention is."""

import sys

import pytest
import torch
from torch import nn

from attnconv import SelfAttention, SimpleSelfAttention
from attnconv.models import create_model


def attention(model):
    kinds = (SelfAttention, SimpleSelfAttention)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}


def on_meta(name, **settings):
    with torch.device("meta"):
        return create_model(name, **{"num_classes": 10, "image_size": 128, **settings})


def small(name, **options):
    torch.manual_seed(0)
    return create_model(name, num_classes=5, image_size=40, **options)


def test_the_stem_and_the_shortcuts():
    model = on_meta("xresnet50")
    convs = [layer for layer in model.stem if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride) for c in convs] == [
        (3, 32, (2, 2)),
        (32, 64, (1, 1)),
        (64, 64, (1, 1)),
    ]
    kinds = [[type(part) for part in stage[0].shortcut] for stage in (model.layer1, model.layer2)]
    assert kinds == [[nn.Conv2d, nn.BatchNorm2d], [nn.AvgPool2d, nn.Conv2d, nn.BatchNorm2d]]
    assert len(model.layer1[1].shortcut) == 0
    assert {layer.bias for layer in model.modules() if isinstance(layer, nn.Conv2d)} == {None}


def test_stem_widths_are_an_option():
    convs = [layer for layer in on_meta("xresnet18", stem=[32, 64, 48]).stem if isinstance(layer, nn.Conv2d)]
    assert [c.out_channels for c in convs] == [32, 64, 48]


def test_a_block_starts_as_its_shortcut():
    """The last batch norm starts at zero, and convolutions are drawn He-normal."""
    model = small("xresnet50").eval()
    block = model.layer2[0]
    assert not block.convs[-1].weight.any()
    x = torch.randn(2, 256, 9, 7)
    torch.testing.assert_close(block(x), block.shortcut(x).relu())
    conv = model.layer3[0].convs[3]
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)


def test_the_attention_ends_the_first_stage():
    assert list(attention(on_meta("sa_xresnet50"))) == ["layer1.2.attention"]
    (layer,) = attention(on_meta("ssa_xresnet50", symmetric=True, normalize=True)).values()
    assert (layer.channels, layer.symmetric, layer.normalize) == (256, True, True)


def test_attention_stages_are_an_option():
    layers = attention(on_meta("ssa_xresnet34", attention_stages=[2, 4]))
    assert {name: layer.channels for name, layer in layers.items()} == {
        "layer2.3.attention": 128,
        "layer4.2.attention": 512,
    }
    assert attention(on_meta("sa_xresnet34", attention_stages=())) == {}


@pytest.mark.parametrize("se", [False, True])
@pytest.mark.parametrize("name", ["sa_xresnet18", "ssa_xresnet18"])
def test_attention_stands_between_the_last_batch_norm_and_the_addition(name, se):
    """Where there is squeeze-excitation, behind that too."""
    model = small(name, se=se).eval()
    block, seen = model.layer1[1], {}
    nn.init.ones_(block.convs[-1].weight)
    nn.init.constant_(block.attention.gamma, 0.3)
    last = block.se if se else block.convs[-1]
    last.register_forward_hook(lambda _, __, y: seen.update(norm=y.clone()))
    block.attention.register_forward_hook(lambda _, x, y: seen.update(before=x[0].clone(), after=y.clone()))
    x = torch.randn(2, 64, 9, 7)
    y = block(x)
    assert torch.equal(seen["norm"], seen["before"])
    assert not torch.equal(seen["before"], seen["after"])
    torch.testing.assert_close(y, (seen["after"] + x).relu())


@pytest.mark.parametrize(
    "name",
    [
        "sa_xresnet18",
        "ssa_xresnet18",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("sa_xresnet50", "ssa_xresnet50")),
    ],
)
def test_at_gamma_0_it_is_the_plain_network(name):
    plain = small(name.partition("_")[2]).double().eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # or nothing would pass the blocks
    model = small(name).double().eval()
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert all(".attention." in key for key in missing)
    x = torch.randn(2, 3, 33, 40, dtype=torch.float64)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-10, atol=0)


def test_squeeze_excitation_and_groups():
    """32 groups in bottlenecks no wider than the plain ones."""
    model = on_meta("ssa_xresnet50", se=True, groups=32, width_per_group=2)
    block = model.layer1[2]
    conv = block.convs[3]
    assert (conv.in_channels, conv.out_channels, conv.groups) == (64, 64, 32)
    assert (block.se.fc1.out_channels, model.layer4[0].se.fc1.out_channels) == (16, 128)
    assert on_meta("xresnet18", se=True).layer1[0].se.fc1.out_channels == 8


def test_wider_groups():
    """ResNeXt-50 32x4d."""
    conv = on_meta("xresnet50", groups=32, width_per_group=4).layer2[0].convs[3]
    assert (conv.in_channels, conv.out_channels, conv.groups, conv.stride) == (256, 256, 32, (2, 2))


def test_mish_everywhere():
    model = small("xresnet18", act="mish", se=True)
    assert not [layer for layer in model.modules() if isinstance(layer, nn.ReLU)]
    assert model(torch.randn(2, 3, 33, 40)).shape == (2, 5)


@pytest.mark.parametrize("size", [(33, 40), (1, 3)])
def test_pools_can_be_max_and_blurred(size):
    blur = pytest.importorskip("timm.layers").BlurPool2d
    model = small("xresnet18", shortcut_pool="max", blur_pool=True)
    assert sum(isinstance(layer, blur) for layer in model.modules()) == 4
    assert model(torch.randn(3, 3, *size)).shape == (3, 5)
    assert not [layer for layer in model.modules() if isinstance(layer, nn.AvgPool2d)]
    plain = small("xresnet18", shortcut_pool="max")
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in plain.modules()) == 4
    assert plain(torch.randn(3, 3, *size)).shape == (3, 5)


def test_a_blurred_pool_is_a_maximum_then_a_blur():
    pytest.importorskip("timm")
    x = torch.zeros(1, 64, 7, 9)
    x[:, :, 3, 4] = 1.0
    y = small("xresnet18", blur_pool=True).stem[-1](x)
    line = torch.tensor([0.0, 0.75, 0.75, 0.0]), torch.tensor([0.0, 0.25, 1.0, 0.25, 0.0])
    torch.testing.assert_close(y[0, 5], torch.outer(*line))


@pytest.mark.parametrize(
    ("package", "option", "extra"), [("timm", "blur_pool", "timm"), ("torchvision", "se", "train")]
)
def test_an_option_names_the_package_that_it_needs(monkeypatch, package, option, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"this needs {package}: pip install 'attnconv\[{extra}\]'"):
        small("xresnet18", **{option: True})
