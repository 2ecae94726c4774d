"""Every refusal of `surgery.augment` in a sentence, and the model as it was."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from attnconv import AugmentedConv2d, checks, surgery

RATIOS = {"key_ratio": 0.25, "value_ratio": 0.25, "num_heads": 2, "min_head_dim": 2}


class Net(nn.Module):
    """One place for each reason to refuse."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.twice = nn.Sequential(nn.Conv2d(8, 8, 1))
        self.first_name = self.second_name = nn.Conv2d(8, 8, 1)
        self.tied, self.tied_too = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.tied_too.weight = self.tied.weight
        self.normed = parametrizations.spectral_norm(nn.Conv2d(8, 8, 1))
        self.hooked = nn.Conv2d(8, 8, 1)
        self.hooked.register_forward_hook(hook)
        self.up = nn.ConvTranspose2d(8, 8, 2)
        self.grouped = nn.Conv2d(8, 24, 1, groups=4)
        self.depthwise = nn.Conv2d(24, 24, 1, groups=24)
        self.odd_depthwise = nn.Conv2d(24, 25, 1), nn.Conv2d(25, 25, 1, groups=25)
        self.odd, self.odd_groups = self.odd_depthwise
        self.narrow = nn.Conv2d(25, 1, 1)
        self.flat = nn.Conv2d(1, 4, 1)
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.norm(self.stem(x))
        for conv in (self.twice, self.twice, self.first_name, self.tied, self.normed, self.hooked, self.up):
            x = conv(x)
        x = self.narrow(self.odd_groups(self.odd(self.depthwise(self.grouped(x)))))
        return self.flat(x[0])


def hook(module, args, output):
    return None


def augment(where, model=None, **settings):
    return surgery.augment(model or Net(), where=where, **{"image_size": 6, **RATIOS, **settings})


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("^steem$", r"where='\^steem\$' matches no module; nearest convolutions: 'stem', "),
        ("norm$", "where='norm\\$' matches no convolution, but 'norm', a BatchNorm2d; nearest convolutions: 'normed'"),
        ("(", r"where must be a regular expression or a function of \(name, conv\), got '\('"),
        (3, r"where must be a regular expression or a function of \(name, conv\), got 3"),
        (lambda name, conv: False, "where is true for none of the model's 14 convolutions"),
        ("twice", r"twice.0 runs 2 times in the model's forward \(shared weights\), not once"),
        ("tied$", "tied shares its weights with another convolution of the model; leave both out of where"),
        ("normed", r"normed computes its weight \(spectral norm, weight norm, pruning\); take that off first"),
        ("hooked", "hooked has hooks, which would be lost; remove them first"),
        ("^up$", "up is a ConvTranspose2d; only Conv1d, Conv2d and Conv3d can be augmented"),
        ("unused", r"unused does not run in the model's forward \(in evaluation mode\)"),
        ("flat", "flat runs without a batch axis, which an augmented convolution needs"),
        (
            "grouped",
            "grouped: with groups=4 and num_heads=2, attention can take a multiple of 4 of the 24 output channels, "
            "not 6; value_ratio=4/24 fits, or leave it out of where",
        ),
        ("^depthwise", "a multiple of 24 of the 24 output channels, not 6; value_ratio=24/24 fits"),
        ("odd_groups", "a multiple of 50 of the 25 output channels, not 6; choose num_heads that divides 25"),
        (
            "narrow",
            r"narrow: attention cannot take 2 of 1 output channels \(value_ratio=0.25, and one channel for each of "
            r"num_heads=2\); lower value_ratio or num_heads",
        ),
    ],
)
def test_refusals(where, message):
    model = Net()
    modules = list(model.modules())
    with pytest.raises(checks.InputError, match=message) as caught:
        augment(where, model, inplace=True)
    assert "\n" not in str(caught.value)
    assert list(model.modules()) == modules


def test_a_convolution_of_two_names_that_runs_once_is_replaced_at_both():
    augmented, changes = augment("_name$")
    assert [change.name for change in changes] == ["first_name"]
    assert isinstance(augmented.first_name, AugmentedConv2d)
    assert augmented.second_name is augmented.first_name


def test_timms_standardised_weights_are_refused():
    from timm.layers import ScaledStdConv2d

    with pytest.raises(checks.InputError, match="0 is a ScaledStdConv2d, which computes something else than Conv2d"):
        augment("0", nn.Sequential(ScaledStdConv2d(2, 8, 3)))


def test_the_ratio_that_is_said_to_fit_fits():
    augmented, _ = augment("grouped", value_ratio=4 / 24)
    assert augmented.grouped.value_channels == 4


def test_value_ratio_above_one():
    with pytest.raises(checks.InputError, match="stem: attention cannot take 16 of 8 output channels"):
        augment("stem", value_ratio=2)


@pytest.mark.parametrize("where", ["stem", lambda name, conv: name == "stem"])
def test_a_second_call_on_the_same_place(where):
    once, _ = augment(where)
    with pytest.raises(checks.InputError, match="stem is an AugmentedConv2d already; leave it out of where"):
        augment(where, once)


def test_the_insides_of_our_layers_are_no_places():
    once, _ = augment("stem")
    with pytest.raises(checks.InputError, match="matches no module"):
        augment("qkv_conv", once)


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Renamed(nn.Conv2d):
    """A subclass that computes what nn.Conv2d computes."""


def test_subclasses_count_by_what_they_compute():
    model = nn.Sequential(Renamed(2, 8, 3), Standardised(8, 8, 3))
    augmented, _ = augment("0", model)
    assert torch.equal(augmented[0].conv_out.weight, model[0].weight[:6])
    with pytest.raises(
        checks.InputError, match="1 is a Standardised, which computes something else than Conv2d; leave it out of where"
    ):
        augment("1", model)


def test_a_pruned_convolution():
    model = nn.Sequential(nn.Conv2d(2, 8, 3))
    prune.l1_unstructured(model[0], "weight", 2)
    with pytest.raises(checks.InputError, match="0 computes its weight"):
        augment("0", model, inplace=True)
    with pytest.raises(checks.InputError, match="the model cannot be copied, pass inplace=True: Only Tensors created"):
        augment("0", model)


def test_timms_dynamic_padding_is_refused():
    from timm.layers import Conv2dSame

    with pytest.raises(checks.InputError, match="0 is a Conv2dSame, which computes something else than Conv2d"):
        augment("0", nn.Sequential(Conv2dSame(2, 8, 3, stride=2)))


def test_a_model_that_is_the_convolution():
    with pytest.raises(checks.InputError, match=r"where='\.\*' matches no module; the model has no convolutions"):
        augment(".*", nn.Conv2d(2, 8, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": None}, "image_size is needed, or example=, an input of the model"),
        ({"image_size": (6, 6, 6)}, "image_size must be one integer or 2, one for each axis of the map"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"example": [1]}, "example must be a tensor or a tuple, got list"),
        ({"example": torch.zeros(1, 5, 6, 6)}, "Net does not run on the example: Given groups=1, weight of size"),
        ({"key_ratio": -1}, "key_ratio must not be negative, got -1"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0$"),
    ],
)
def test_arguments(settings, message):
    with pytest.raises(checks.InputError, match=message):
        augment("stem", **settings)


def test_a_model_that_does_not_run_on_zeros():
    model = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv3d(2, 4, 1))
    with pytest.raises(checks.InputError) as caught:
        augment("1", model)
    assert str(caught.value).startswith(
        "Sequential does not run on zeros of (1, 2, 6, 6, 6); pass example=, an input that it takes: "
    )
    augment("1", model, example=torch.zeros(1, 6, 4, 5))


def test_a_model_without_convolutions():
    with pytest.raises(checks.InputError, match=r"where='\.\*' matches no convolution, but '0', a Linear"):
        augment(".*", nn.Sequential(nn.Linear(2, 3)))


def test_something_else_than_a_model():
    with pytest.raises(checks.InputError, match=r"model must be an nn\.Module, got function"):
        augment("0", hook)
