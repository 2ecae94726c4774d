"""Attention layers by name: what registers them, what is refused, and that nobody outside asks which class they are."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

import attnconv
from attnconv import Attention, SelfAttention, checks, models, register_attention, surgery
from attnconv.bench.cost import cost
from attnconv.explain import attention_layers, attention_maps
from attnconv.explain.attention import ImageAttention
from attnconv.layers import list_attention, registry
from attnconv.layers.activity import attention_activity, attention_off
from attnconv.layers.attention import no_weight_decay
from attnconv.layers.registry import find_attention
from attnconv.layers.timm_attention import NAMES

SOURCE = Path(attnconv.__file__).parent
CERTAIN = {f"AugmentedConv{axes}d" for axes in "N123"} | {"SelfAttention", "SimpleSelfAttention"}


@pytest.fixture(autouse=True)
def own_names_forgotten(monkeypatch):
    ours = {name: registry._REGISTERED[name] for name in ("augmented", "sagan", "simple")}
    monkeypatch.setattr(registry, "_REGISTERED", ours)


class Doubling(Attention):
    """The least that a layer can be."""

    def __init__(self, channels, *, factor=2.0):
        super().__init__()
        self.factor = factor
        self.table = nn.Parameter(torch.zeros(channels, 3))

    def forward(self, x):
        return self.factor * x

    def no_weight_decay(self):
        return {"table"}


class Halved(Attention):
    """A layer in the place of a convolution."""

    def __init__(self, conv, map_size, share=0.5):
        super().__init__()
        self.in_channels, self.kernel_size, self.conv_out = conv.in_channels, conv.kernel_size, conv
        self.share, self.map_size = share, map_size

    @classmethod
    def from_conv(cls, conv, map_size, **options):
        return cls(conv, map_size, **options)

    def forward(self, x):
        return self.share * self.conv_out(x)

    def without_attention(self, x, y):
        return y / self.share


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))


# The names


def test_ours_are_registered_like_anybodys():
    assert list_attention() == ["augmented", "sagan", "simple"]
    assert find_attention("sagan").layer is SelfAttention
    assert find_attention("augmented").replaces_conv
    register_attention("twice", Doubling)
    register_attention("twice", Doubling)  # its module loaded anew
    assert list_attention("t*") == ["twice"]
    with pytest.raises(checks.InputError, match="there is an attention layer 'sagan' already; give yours another name"):
        register_attention("sagan", Doubling)


def test_an_installed_package_offers_one(monkeypatch):
    class Entry:
        name = "offered"

        def load(self):
            return Doubling

    monkeypatch.setattr("attnconv.extensions.metadata.entry_points", lambda group: [Entry()])
    assert "offered" in list_attention()
    assert find_attention("offered").layer is Doubling


class Bare(Attention):
    pass


class NoChannels(Attention):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("name", "layer", "settings", "message"),
    [
        ("a b", Doubling, {}, "must be of letters, digits and"),
        ("timm:se", Doubling, {}, "must be of letters, digits and"),
        ("mine", nn.ReLU(), {}, "attention layer 'mine' must be a class or a function, got ReLU"),
        ("mine", nn.ReLU, {}, r"ReLU is not an attnconv\.Attention; derive it from that class"),
        ("mine", Bare, {}, "attention layer 'mine': Bare must define forward$"),
        ("mine", NoChannels, {}, "attention layer 'mine' must be made from the channels and options only"),
        ("mine", lambda: Doubling(3), {}, "attention layer 'mine' must be made from the channels and options only"),
        ("mine", Doubling, {"replaces_conv": True}, "Doubling must define from_conv, without_attention$"),
        ("mine", lambda c, m: 0, {"replaces_conv": True}, "must be a class with from_conv, got a function"),
    ],
)
def test_what_a_layer_lacks_is_named(name, layer, settings, message):
    with pytest.raises(checks.InputError, match=message):
        register_attention(name, layer, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "sagann"}, "unknown attention layer 'sagann'; nearest: 'sagan'; .*--import MODULE"),
        ({"kind": "timm:sf"}, "unknown attention layer of timm: 'sf'; nearest: 'se'"),
        ({"kind": "sagan", "key_ration": 1}, "unknown option of attention layer 'sagan': 'key_ration'; nearest"),
        ({"kind": "augmented"}, "'augmented' replaces a convolution; use augment"),
        ({"kind": lambda c: nn.Conv2d(c, c, 1)}, r"Conv2d is not an attnconv\.Attention"),
        ({"kind": lambda c: 1 / 0}, "cannot be made: ZeroDivisionError: division by zero"),
        ({"kind": lambda c: find_attention("timm:bat").make(c)}, r"timm:bat\(8\) does not take a map \(1, 8, 16, 16\)"),
    ],
)
def test_what_surgery_refuses(settings, message):
    pytest.importorskip("timm")
    with pytest.raises(checks.InputError, match=message):
        surgery.add_self_attention(net(), after="1", image_size=16, **settings)


def test_a_layer_that_changes_the_shape_is_refused():
    class Wide(Doubling):
        def forward(self, x):
            return torch.cat([x, x], 1)

    with pytest.raises(checks.InputError, match=r"must keep the shape \(1, 8, 16, 16\) of its map, it gives \(1, 16"):
        surgery.add_self_attention(net(), after="1", image_size=16, kind=Wide)


def test_augment_wants_a_layer_that_replaces_one():
    with pytest.raises(checks.InputError, match="'simple' does not replace a convolution; use add_self_attention"):
        surgery.augment(net(), where="0", image_size=16, kind="simple")


# Defaults of the base


def test_a_layer_of_nothing_but_a_forward():
    model, changes = surgery.add_self_attention(net(), after="1", image_size=16, kind=Doubling, factor=3.0)
    assert changes[0].after == "ReLU + Doubling(), not the identity at first"
    layer, x = model[1].attention, torch.randn(2, 3, 5, 7)
    with attention_off(model):
        off = model(x)
    torch.testing.assert_close(off, net_of(model)(x))
    share = attention_activity(model, x)
    assert share == {"attention_share 1.attention": pytest.approx(4 / 5)}  # of 3x: 2x beside x
    assert "1.attention.table" in no_weight_decay(model)
    assert cost(model, in_channels=3, image_size=(16, 16)).attention == ()
    assert attention_layers(model) == {}
    with pytest.raises(checks.InputError, match=r"in Sequential can be explained: 1\.attention has no attention map"):
        attention_maps(model, x[0], (0, 0))
    assert layer.largest_map is None
    with pytest.raises(checks.InputError, match="Doubling has no position tables"):
        layer.resize_feat_size(3)


def net_of(model):
    return nn.Sequential(model[0], model[1].inner, model[2])


def test_resetting_draws_the_inner_modules_anew():
    class Projecting(Doubling):
        def __init__(self, channels):
            super().__init__(channels)
            self.proj = nn.Conv2d(channels, channels, 1)

    layer, seen = Projecting(4), []
    before = layer.proj.weight.clone()
    layer.reset_attention(seen.append)
    assert seen == [layer.proj]
    assert not torch.equal(layer.proj.weight, before)


def test_a_layer_of_ones_own_in_the_place_of_a_convolution():
    register_attention("halved", Halved, replaces_conv=True)
    model, changes = surgery.augment(net(), where="0", image_size=(6, 4), kind="halved", share=0.25)
    assert (changes[0].after, model[0].map_size, model[0].share) == ("Halved()", (6, 4), 0.25)
    x = torch.randn(2, 3, 6, 4)
    with attention_off(model):
        torch.testing.assert_close(model(x), nn.Sequential(model[0].conv_out, *model[1:])(x))
    again, _ = surgery.augment(model, where="2", image_size=6, kind=Halved)  # the first convolution is found in it
    assert isinstance(again[2], Halved)
    with pytest.raises(checks.InputError, match="0 is an Halved already"):
        surgery.augment(model, where="0", image_size=6)
    found = models.create_model(
        "convnet3", num_classes=3, image_size=16, attention=[{"augment": {"where": "layer1", "kind": "halved"}}]
    )
    assert found.blueprint.attention[0]["augment"]["kind"] == "halved"


# timm's


@pytest.mark.parametrize("name", ["se", "eca", "cbam", "gc", "gca", "nl", "coord", "splat"])
def test_timms_layers_compute_what_timms_do(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    own = timm.layers.create_attn(name, 16).eval()
    torch.manual_seed(0)
    layer = find_attention(f"timm:{name}").make(16).eval()
    x = torch.randn(2, 16, 6, 7)
    torch.testing.assert_close(layer(x), own(x), rtol=0, atol=0)
    torch.testing.assert_close(layer.without_attention(x, layer(x)), x, rtol=0, atol=0)


def test_every_name_is_one_of_timms():
    layers = pytest.importorskip("timm").layers
    assert all(layers.get_attn(name) is not None for name in NAMES)


def test_the_map_of_timms_non_local_attention_makes_its_output():
    pytest.importorskip("timm")
    layer = find_attention("timm:nl").make(16).eval()
    nn.init.ones_(layer.layer.norm.weight)
    x = torch.randn(1, 16, 5, 6)
    weights = layer.attention_weights(x)((3, 2))
    assert weights.shape == (1, 5, 6)
    gathered = (layer.layer.g(x) * weights).sum((2, 3), keepdim=True)
    at = layer.layer.norm(layer.layer.z(gathered))[0, :, 0, 0] + x[0, :, 3, 2]
    torch.testing.assert_close(layer(x)[0, :, 3, 2], at, rtol=1e-4, atol=1e-5)


def test_a_layer_without_a_map_is_named_beside_one_that_has_one():
    pytest.importorskip("timm")
    model, _ = surgery.add_self_attention(net(), after="0", kind="timm:se", image_size=8)
    model, _ = surgery.add_self_attention(model, after="1", kind="timm:gc", image_size=8)
    attention = ImageAttention(model, torch.randn(3, 8, 8))
    assert attention.without_map == ("0.attention",)
    (found,) = attention.maps((4, 4))
    assert found.layer == "1.attention"
    assert found.weights.sum().item() == pytest.approx(1)
    model[1].attention.layer.conv_attn = None  # timm's use_attn=False
    with pytest.raises(checks.InputError, match="ran on a map"):
        attention_maps(model, torch.randn(3, 8, 8), (4, 4))


# The sources


def names_asked_for(tree):
    """Classes that isinstance or issubclass asks about, and those that stand in a tuple or a dict's keys."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            yield from (n for n in ast.walk(node.args[1]))
        elif isinstance(node, ast.Tuple):
            yield from node.elts
        elif isinstance(node, ast.Dict):
            yield from (key for key in node.keys if key is not None)


def test_nothing_outside_layers_asks_for_a_certain_layer():
    files = [path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in ("layers", "compat")]
    assert len(files) > 100
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno} {node.id}"
        for path in files
        for node in names_asked_for(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id in CERTAIN
    ]
    assert found == []


@pytest.mark.parametrize(
    "text", ["isinstance(m, SelfAttention)", "isinstance(m, (A, AugmentedConvNd))", "KINDS = (SelfAttention, B)"]
)
def test_such_a_question_would_be_noticed(text):
    assert any(isinstance(n, ast.Name) and n.id in CERTAIN for n in names_asked_for(ast.parse(text)))


def test_a_layer_may_have_a_mixin_that_takes_keywords():
    class Named:
        def __init_subclass__(cls, *, library_name, **options):
            super().__init_subclass__(**options)
            cls.library = library_name

    class Layer(Attention, Named, library_name="x"):
        def __init__(self):
            super().__init__()
            self.path = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.path(x)

    assert Layer.library == "x"
    assert Layer()(torch.zeros(1, 3, 2, 2)).shape == (1, 3, 2, 2)
