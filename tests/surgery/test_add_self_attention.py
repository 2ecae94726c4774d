"""`surgery.add_self_attention` on small networks: where it acts, what it keeps, and what it refuses."""

import copy
import io
import pickle

import pytest
import torch
from surgery.networks import Join, UNet
from torch import nn

from attnconv import SelfAttention, SimpleSelfAttention, checks, surgery
from attnconv.surgery import Attended
from attnconv.surgery.network import places, plain_names


def add(model, after, **settings):
    return surgery.add_self_attention(model, after=after, image_size=16, **settings)


def opened(model, value=0.5):
    """``model`` with every gamma at ``value``."""
    for module in model.modules():
        if isinstance(module, Attended):
            nn.init.constant_(module.attention.gamma, value)
    return model


def test_the_attention_takes_the_output_of_the_module():
    attended, _ = add(UNet(), "bottom")
    opened(attended).eval()
    x = torch.randn(2, 8, 5, 7)
    seen = []
    attended.bottom.attention.register_forward_hook(lambda _, args, y: seen.append((*args, y)))
    y = attended.bottom(torch.randn(2, 16, 5, 7))
    (before, after), x = seen[0], seen[0][0]
    torch.testing.assert_close(y, after, rtol=0, atol=0)
    torch.testing.assert_close(before, x, rtol=0, atol=0)
    assert not torch.equal(before, after)


def test_kinds_and_their_options():
    attended, _ = add(UNet(), "bottom", symmetric=True, normalize=True, spectral_norm=False)
    layer = attended.bottom.attention
    assert isinstance(layer, SimpleSelfAttention)
    assert (layer.symmetric, layer.normalize, layer.channels) == (True, True, 32)
    assert [name for name, _ in layer.named_parameters()] == ["gamma", "conv.parametrizations.weight.original"]
    whole = {"key_ratio": 1 / 4, "value_ratio": 1 / 2, "pool": 2, "bias": True}
    attended, _ = add(UNet(), "bottom", kind="sagan", **whole)
    layer = attended.bottom.attention
    assert isinstance(layer, SelfAttention)
    assert (layer.query.weight.shape, layer.out.weight.shape) == ((8, 32, 1), (32, 16, 1))
    assert (layer.pool, layer.out.bias.shape) == (2, (32,))


def test_several_places_also_within_each_other_and_behind_a_concatenation():
    model = UNet().eval()
    attended, changes = add(model, ["bottom", "bottom.1", "join.1"])
    assert [(c.name, c.map_size) for c in changes] == [("bottom", (4, 4)), ("bottom.1", (4, 4)), ("join.1", (16, 16))]
    assert [attended.get_submodule(name).attention.channels for name in ("bottom", "bottom.1", "join.1")] == [
        32,
        32,
        24,
    ]
    assert isinstance(attended.join[1].inner, Join)
    x = torch.randn(2, 1, 12, 20)
    torch.testing.assert_close(attended(x), model(x), rtol=1e-6, atol=1e-6)


def test_a_list_may_be_a_tuple_and_inplace_changes_the_model():
    model = UNet()
    same, _ = add(model, ("bottom",), inplace=True)
    assert same is model
    assert isinstance(model.bottom, Attended)


def test_the_original_and_its_modes_are_untouched():
    model = UNet()
    model.bottom.eval()
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    attended, _ = add(model, ["bottom", "up.0"])
    assert not attended.bottom.training
    assert not attended.bottom.attention.training
    assert attended.up[0].training
    assert attended.up[0].attention.training
    attended(torch.randn(2, 1, 16, 16))
    assert list(model.modules()) == modules
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_attributes_items_and_names_of_the_wrapped_module_still_work():
    model = UNet()
    attended, _ = add(model, ["bottom", "head"])
    assert attended.bottom[1] is attended.bottom.inner[1]
    assert [type(m) for m in attended.bottom] == [type(m) for m in model.bottom]
    assert len(attended.bottom) == 5
    assert attended.head
    assert attended.head.kernel_size == (1, 1)
    assert attended.get_submodule("bottom.0") is attended.bottom.inner[0]
    assert torch.equal(attended.get_parameter("head.weight"), model.head.weight)
    with pytest.raises(AttributeError, match="nothing"):
        _ = attended.bottom.nothing


def test_names_in_the_state_dict():
    model = UNet()
    attended, _ = add(model, "head")
    new = set(attended.state_dict()) - set(model.state_dict())
    assert new == {
        "head.inner.weight",
        "head.inner.bias",
        "head.attention.gamma",
        "head.attention.conv.parametrizations.weight.original",
        "head.attention.conv.parametrizations.weight.0._u",
        "head.attention.conv.parametrizations.weight.0._v",
    }


def test_state_dict_round_trip():
    attended, _ = add(UNet(), ["bottom", "bottom.1", "head"])
    other, _ = add(UNet(), ["bottom", "bottom.1", "head"])
    opened(attended).eval()
    other.eval().load_state_dict(attended.state_dict())
    x = torch.randn(2, 1, 16, 12)
    torch.testing.assert_close(other(x), attended(x), rtol=0, atol=0)


def test_a_state_dict_without_attention_loads():
    model = UNet().eval()
    attended, _ = add(UNet().eval(), ["bottom", "bottom.1", "head"])
    missing, unexpected = attended.load_state_dict(model.state_dict(), strict=False)
    assert missing
    assert all(".attention." in name for name in missing)
    assert not unexpected
    x = torch.randn(2, 1, 16, 12)
    torch.testing.assert_close(attended(x), model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies(way):
    # Under a parametrization, torch copies modules and their state dicts but does not pickle modules.
    attended, _ = add(UNet(), ["bottom", "join.0"], spectral_norm=way == "deepcopy")
    opened(attended).eval()
    if way == "deepcopy":
        other = copy.deepcopy(attended)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(attended))
    else:
        file = io.BytesIO()
        torch.save(attended, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    x = torch.randn(2, 1, 16, 12)
    torch.testing.assert_close(other(x), attended(x), rtol=0, atol=0)
    opened(other, 0.9)
    assert not torch.allclose(other(x), attended(x))


def test_surgery_sees_the_names_of_before():
    model = UNet()
    attended, _ = add(model, ["bottom", "bottom.1", "head"])
    assert [place.name for place in places(attended)] == [name for name, _ in model.named_modules()]


def test_augment_finds_the_names_it_knew_before_the_attention():
    model = UNet()
    attended, _ = add(model, ["bottom", "head"])
    augmented, changes = surgery.augment(
        attended, image_size=16, where=r"^bottom\.0$|^head$", key_ratio=0.2, value_ratio=0.1, num_heads=1
    )
    assert [change.name for change in changes] == ["bottom.0", "head"]
    assert augmented.head.inner.feat_size == (16, 16)
    assert augmented(torch.randn(2, 1, 16, 11)).shape == (2, 3, 16, 11)


def test_more_attention_elsewhere():
    once, _ = add(UNet(), "bottom")
    twice, changes = add(once, "bottom.1")
    assert [change.name for change in changes] == ["bottom.1"]
    assert isinstance(twice.bottom.inner[1], Attended)


class Dense(nn.ModuleDict):
    """Runs whatever children it has, on all maps so far, as DenseNet's blocks do."""

    def forward(self, x):
        for layer in self.values():
            x = torch.cat([x, layer(x)], dim=1)
        return x


def test_a_module_that_runs_all_its_children_does_not_run_the_attention_among_them():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), Dense({"one": nn.Conv2d(4, 3, 1), "two": nn.Conv2d(7, 2, 1)}))
    attended, _ = add(model, ["1", "1.one"])
    assert [attended.get_submodule(name).attention.channels for name in ("1", "1.one")] == [9, 3]
    y = opened(attended)(torch.randn(2, 1, 5, 4))
    assert y.shape == (2, 9, 5, 4)
    assert set(attended[1]) == {"one", "two"}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_maps_of_one_to_three_axes(axes):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    model = nn.Sequential(conv(2, 6, 3, padding=1), nn.ReLU())
    attended, changes = add(model, "1")
    assert changes[0].map_size == (16,) * axes
    x = torch.randn(2, 2, *(3, 5, 4)[:axes])
    torch.testing.assert_close(attended(x), model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_attention_takes_the_dtype(dtype):
    attended, _ = add(UNet().to(dtype), "bottom")
    assert {p.dtype for p in attended.parameters()} == {dtype}
    attended, _ = add(UNet().to("meta"), "bottom")
    assert {p.device.type for p in attended.parameters()} == {"meta"}


def test_callers_autocast_does_not_reach_the_trace():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attended, _ = add(UNet(), "bottom")
    assert {p.dtype for p in attended.parameters()} == {torch.float32}


def test_a_module_of_two_names_that_runs_once_is_wrapped_at_both():
    """MONAI's DynUNet registers its bottleneck twice."""
    model = UNet().eval()
    model.alias = nn.Sequential(model.bottom)
    attended, changes = add(model, "bottom")
    assert [change.name for change in changes] == ["bottom"]
    assert isinstance(attended.bottom, Attended)
    assert attended.alias[0] is attended.bottom
    nn.init.ones_(attended.bottom.attention.gamma)
    x = torch.randn(2, 1, 16, 12)
    expected = attended(x)
    again, _ = add(UNet(), "bottom")
    again.alias = nn.Sequential(again.bottom)
    again.load_state_dict(attended.state_dict())
    assert torch.equal(again.eval()(x), expected)
    missing = attended.load_state_dict(model.state_dict(), strict=False)  # from before the surgery
    assert missing.unexpected_keys == []
    assert all(".attention." in key for key in missing.missing_keys)
    assert set(plain_names(attended).values()) == set(model.state_dict())


class Net(nn.Module):
    """One place for each reason to refuse."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(4, 4, 1)
        self.split = Split()
        self.shape = Shape()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.unused = nn.ModuleList([nn.Identity()])

    def forward(self, x):
        x = self.relu(self.conv(self.relu(self.stem(x))))
        self.shape(x)
        return self.pool(self.split(x)[0])


class Split(nn.Module):
    def forward(self, x):
        return x.split(2, dim=1)


class Shape(nn.Module):
    def forward(self, x):
        return (x > 0)[..., None].long()


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("stam", "after='stam' is not a module of the model; nearest modules: 'stem', "),
        ("STEM", "after='STEM' is not a module of the model; nearest modules: 'stem', "),
        ("", "after='' is not a module of the model; nearest modules: "),
        (["stem", 3], "after=3 is not a module of the model"),
        ([], "after names no module"),
        (["stem", "pool.0", "stem"], "after names stem twice"),
        ("split", r"the output of split is a tuple, not a map \(B, C, \*map\)"),
        ("shape", r"the output of shape is a tensor of int64 and shape \(1, 4, 14, 14, 1\), not a map"),
        ("pool", r"the output of pool is a tensor of float32 and shape \(1, 2\), not a map"),
        ("relu", r"relu runs 2 times in the model's forward \(shared weights\), not once"),
        ("unused.0", r"unused.0 does not run in the model's forward \(in evaluation mode\)"),
    ],
)
def test_refusals(after, message):
    model = Net()
    modules = list(model.modules())
    with pytest.raises(checks.InputError, match=message):
        add(model, after, inplace=True)
    assert list(model.modules()) == modules


def test_a_second_call_on_the_same_place():
    once, _ = add(UNet(), "bottom")
    with pytest.raises(checks.InputError, match="bottom has attention after it already"):
        add(once, ["head", "bottom"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "sagn"}, "unknown attention layer 'sagn'; nearest: 'sagan'"),
        (
            {"kind": "sagan", "normalize": True},
            "unknown option of attention layer 'sagan': 'normalize'; known: ",
        ),
        ({"key_ratio": 0.5}, "unknown option of attention layer 'simple': 'key_ratio'; known: normalize, "),
        ({"kind": "sagan", "key_ratio": 0}, "key_ratio must be above 0 and at most 1, got 0"),
    ],
)
def test_arguments(settings, message):
    with pytest.raises(checks.InputError, match=message):
        add(UNet(), "bottom", **settings)


def test_a_model_without_convolutions_needs_an_example():
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (4, 1)))
    with pytest.raises(checks.InputError, match="Sequential has no convolution that tells its input's channels; pass"):
        add(model, "1")
    attended, _ = add(model, "1", example=torch.zeros(5, 3))
    assert attended[1].attention.channels == 4


class WithAttention(nn.Module):
    """A block that has a child called attention of its own."""

    def __init__(self):
        super().__init__()
        self.attention = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.attention(x)


def test_an_old_state_dict_loads_though_the_block_has_an_attention_of_its_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), WithAttention())
    attended, _ = surgery.add_self_attention(model, after="1", image_size=8)
    old = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    found = attended.load_state_dict(old, strict=False)
    assert found.unexpected_keys == []
    assert all(name.startswith("1.attention.") for name in found.missing_keys)
    assert torch.equal(attended[1].inner.attention.weight, old["1.attention.weight"])
