"""`surgery.augment` on small networks: what a replaced convolution keeps, and what the model keeps."""

import copy
import re

import pytest
import torch
from surgery.networks import UNet
from torch import nn

from attnconv import AugmentedConv1d, AugmentedConv2d, AugmentedConv3d, surgery

RATIOS = {"key_ratio": 0.25, "value_ratio": 0.25, "num_heads": 2, "min_head_dim": 2}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
LAYERS = {1: AugmentedConv1d, 2: AugmentedConv2d, 3: AugmentedConv3d}


def net(axes=2, **settings):
    """A convolution to replace, '1', between one that gives it 8 channels and a head."""
    conv = CONVS[axes]
    middle = conv(8, 16, **{"kernel_size": 3, "padding": 1, **settings})
    return nn.Sequential(conv(2, 8, 3, padding=1), middle, nn.Flatten(2), nn.AdaptiveAvgPool1d(1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bias": False},
        {"stride": 2},
        {"stride": (2, 1), "padding": (0, 2), "kernel_size": (3, 5)},
        {"padding": 2, "dilation": 2, "padding_mode": "reflect"},
        {"padding": "same", "kernel_size": (4, 3), "padding_mode": "circular"},
        {"padding": "valid", "kernel_size": 2},
        {"kernel_size": 1, "padding": 0, "padding_mode": "replicate"},
    ],
    ids=str,
)
def test_the_kept_channels_are_computed_as_before(settings):
    model = net(**settings)
    augmented, changes = surgery.augment(model, image_size=(9, 12), where="^1$", **RATIOS)
    x = torch.randn(2, 8, 9, 12)
    y, expected = augmented[1](x), model[1](x)
    assert y.shape == expected.shape
    torch.testing.assert_close(y[:, :12], expected[:, :12])
    assert changes[0].map_size == augmented[1].feat_size == expected.shape[2:]


def test_each_group_keeps_its_first_filters():
    model = net(groups=2)
    augmented, _ = surgery.augment(model, image_size=9, where="^1$", **RATIOS)
    x = torch.randn(2, 8, 9, 7)
    kept = [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]
    torch.testing.assert_close(augmented[1](x)[:, :12], model[1](x)[:, kept])


def test_a_depthwise_convolution_can_become_all_attention():
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    augmented, _ = surgery.augment(model, image_size=(5, 6), where="1", **{**RATIOS, "value_ratio": 1})
    assert augmented[1].conv_out is None
    assert augmented(torch.randn(1, 2, 5, 6)).shape == (1, 8, 5, 6)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_maps_of_one_to_three_axes(axes):
    size = (7, 6, 5)[:axes]
    augmented, changes = surgery.augment(net(axes, stride=2), image_size=size, where="^1$", **RATIOS)
    assert type(augmented[1]) is LAYERS[axes]
    assert changes[0].map_size == (4, 3, 3)[:axes]
    augmented(torch.randn(2, 2, *size)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in augmented.parameters())


def test_an_integer_is_the_size_of_every_axis():
    _, changes = surgery.augment(net(3), image_size=5, where="^1$", **RATIOS)
    assert changes[0].map_size == (5, 5, 5)


def test_where_may_be_a_function_or_a_compiled_pattern():
    model = UNet()
    asked = []

    def pointwise(name, conv):
        asked.append(name)
        return conv.kernel_size == (1, 1)

    _, changes = surgery.augment(model, image_size=16, where=pointwise, **{**RATIOS, "num_heads": 1})
    assert [change.name for change in changes] == ["head"]
    assert asked == [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    _, changes = surgery.augment(model, image_size=16, where=re.compile("BOTTOM.3", re.IGNORECASE), **RATIOS)
    assert [change.name for change in changes] == ["bottom.3"]


def test_the_original_is_untouched_unless_inplace():
    model = net()
    before, modules = copy.deepcopy(model.state_dict()), list(model)
    augmented, _ = surgery.augment(model, image_size=9, where="^1$", **RATIOS)
    nn.init.zeros_(augmented[1].conv_out.weight)
    nn.init.zeros_(augmented[0].weight)
    assert list(model) == modules
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    same, changes = surgery.augment(model, image_size=9, where="^1$", inplace=True, **RATIOS)
    assert same is model
    assert isinstance(model[1], AugmentedConv2d)
    assert len(changes) == 1


class Noisy(nn.Module):
    """Buffers changed in place, replaced and made by the forward, and an overridden train()."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3))
        )
        self.body[1].eval()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))
        self.register_buffer("late", None)

    def train(self, mode=True):
        raise AssertionError("surgery calls neither train() nor eval()")

    def forward(self, x):
        self.calls += 1
        self.last = x.mean()
        self.late = x.max()
        return self.body(x)


@pytest.mark.parametrize("training", [True, False])
def test_the_trace_leaves_modes_and_buffers_as_they_were(training):
    model = Noisy()
    model.training = model.body[0].training = training
    before, modes = copy.deepcopy(model.state_dict()), {name: m.training for name, m in model.named_modules()}
    augmented, _ = surgery.augment(model, image_size=8, where=r"body\.0", inplace=True, **RATIOS)
    assert {name: m.training for name, m in augmented.named_modules() if name in modes} == modes
    assert {m.training for m in augmented.body[0].modules()} == {training}
    after = {key: value for key, value in augmented.state_dict().items() if not key.startswith("body.0")}
    assert augmented.late is None
    torch.testing.assert_close(after, {key: before[key] for key in after}, rtol=0, atol=0)
    assert not any(m._forward_hooks for m in augmented.modules())


def test_what_was_frozen_stays_frozen_and_the_attention_trains():
    model = net().requires_grad_(False)
    augmented, _ = surgery.augment(model, image_size=9, where="^1$", **RATIOS)
    trains = {name for name, p in augmented[1].named_parameters() if p.requires_grad}
    assert "qkv_conv.weight" in trains
    assert not trains & {"conv_out.weight", "conv_out.bias"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_new_layer_takes_the_dtype(dtype):
    augmented, _ = surgery.augment(net().to(dtype), image_size=9, where="^1$", **RATIOS)
    assert {p.dtype for p in augmented.parameters()} == {dtype}


def test_the_new_layer_takes_the_device_and_memory_format():
    augmented, changes = surgery.augment(net().to("meta"), image_size=9, where="^1$", **RATIOS)
    assert {p.device.type for p in augmented.parameters()} == {"meta"}
    assert changes[0].map_size == (9, 9)
    augmented, _ = surgery.augment(net().to(memory_format=torch.channels_last), image_size=9, where="^1$", **RATIOS)
    assert augmented[1].conv_out.weight.is_contiguous(memory_format=torch.channels_last)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.late = nn.Conv2d(7, 8, 3)
        self.early = nn.Conv2d(2, 7, 3)

    def forward(self, x, scale):
        return self.late(self.early(x) * scale)


def test_an_example_stands_for_the_input():
    example = (torch.randn(1, 2, 9, 8), torch.tensor(2.0))
    augmented, changes = surgery.augment(TwoInputs(), example=example, where="late", **RATIOS)
    assert changes[0].map_size == (5, 4)
    assert augmented(*example).shape == (1, 8, 5, 4)
    _, changes = surgery.augment(net(), example=torch.randn(1, 2, 9, 8), where="^1$", **RATIOS)
    assert changes[0].map_size == (9, 8)


def test_a_second_call_elsewhere_goes_on():
    once, _ = surgery.augment(net(), image_size=9, where="^0$", **RATIOS)
    twice, changes = surgery.augment(once, image_size=(9, 7), where="^1$", **RATIOS)
    assert [change.name for change in changes] == ["1"]
    assert {type(layer) for layer in twice[:2]} == {AugmentedConv2d}


class Alias(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = net()
        self.also_encoder = self.encoder

    def forward(self, x):
        return self.also_encoder(x)


def test_a_block_under_two_names_that_runs_once_is_augmented_under_both():
    augmented, changes = surgery.augment(Alias(), image_size=9, where=r"\.1$", **RATIOS)
    assert [change.name for change in changes] == ["encoder.1"]
    assert isinstance(augmented.also_encoder[1], AugmentedConv2d)


def test_widths_are_the_papers():
    model = nn.Sequential(nn.Conv2d(3, 160, 1))
    augmented, changes = surgery.augment(model, image_size=4, where="0", key_ratio=2, value_ratio=0.2)
    assert (augmented[0].key_channels, augmented[0].value_channels, augmented[0].num_heads) == (320, 32, 8)
    assert changes[0].params_before == 640
    assert changes[0].params_after == sum(p.numel() for p in augmented.parameters())


def test_state_dict_round_trip():
    augmented, _ = surgery.augment(net(), image_size=9, where="^1$", **RATIOS)
    other, _ = surgery.augment(net(), image_size=9, where="^1$", **RATIOS)
    other.load_state_dict(augmented.state_dict())
    x = torch.randn(2, 2, 9, 5)
    torch.testing.assert_close(other(x), augmented(x), rtol=0, atol=0)
