"""attention_maps: the weights that the layers apply, for one position of the image."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from attnconv import AugmentedConv2d, SelfAttention, SimpleSelfAttention, compat
from attnconv.bench.machine import peak_bytes
from attnconv.explain import (
    ImageAttention,
    attention_maps,
    choose_maps,
)
from attnconv.explain.attention import drawable
from attnconv.models import create_model


def network():
    torch.manual_seed(0)
    return create_model("aa_convnet3", num_classes=10, image_size=16, augment=(1, 2, 3))


def test_one_map_for_each_layer_and_head():
    maps = attention_maps(network(), torch.randn(3, 16, 12), (5, 11))
    assert [m.layer for m in maps] == ["layer1.0", "layer2.0", "layer3.0"]
    assert [tuple(m.weights.shape) for m in maps] == [(4, 16, 12), (4, 8, 6), (4, 4, 3)]
    assert [m.query for m in maps] == [(5, 11), (2, 5), (1, 2)]


def test_each_head_sums_to_one():
    for found in attention_maps(network(), torch.randn(3, 16, 12), (0, 0)):
        torch.testing.assert_close(found.weights.sum((1, 2)), torch.ones(4))


@pytest.mark.parametrize("position", ["relative", "sine", "coordconv", None])
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("qkv_kernel_size", [1, 3])
def test_the_map_applied_to_v_is_what_the_layer_gives(position, pool, stride, qkv_kernel_size):
    torch.manual_seed(0)
    layer = AugmentedConv2d(
        5, 9, 3, stride, 1, key_channels=6, value_channels=4, num_heads=2,
        feat_size=12, position=position, attention_pool=pool, qkv_kernel_size=qkv_kernel_size,
    )  # fmt: skip
    given = []
    layer.attn_out.register_forward_hook(lambda _, inputs, output: given.append(output))
    image = torch.randn(5, 12, 9)
    (found,) = attention_maps(layer, image, (7, 5))
    row, column = found.query
    assert (row, column) == (7 * found.weights.shape[1] // 12, 5 * found.weights.shape[2] // 9)
    _, _, v = layer.queries_keys_values(image[None])
    mixed = torch.einsum("nhw,nhwe->ne", found.weights, v[0]).flatten()  # (N*E,)
    expected = layer.attn_out(mixed[None, :, None, None]).flatten()
    torch.testing.assert_close(given[0][0, :, row, column], expected, rtol=1e-4, atol=1e-5)
    if pool == 1:
        torch.testing.assert_close(layer(image[None])[0, -4:, row, column], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("spectral_norm", [True, False])
def test_the_signed_map_applied_to_x_is_what_the_simple_layer_adds(symmetric, normalize, spectral_norm):
    torch.manual_seed(0)
    layer = SimpleSelfAttention(6, symmetric=symmetric, normalize=normalize, spectral_norm=spectral_norm)
    nn.init.constant_(layer.gamma, 0.5)
    image = torch.randn(6, 3, 5)
    (found,) = attention_maps(layer, image, (1, 4))
    assert (found.signed, found.gamma, found.query, found.heads) == (True, 0.5, (1, 4), (1,))
    assert (found.weights < 0).any()
    expected = 0.5 * torch.einsum("hw,chw->c", found.weights[0], image) + image[:, 1, 4]
    torch.testing.assert_close(layer.eval()(image[None])[0, :, 1, 4], expected)


def test_the_simple_layer_of_2019_with_a_wide_kernel():
    torch.manual_seed(0)
    layer = compat.SimpleSelfAttention(6, ks=5)
    nn.init.constant_(layer.gamma, 0.5)
    image = torch.randn(6, 3, 4)
    for point in ((0, 0), (1, 2), (2, 3)):
        (found,) = attention_maps(layer, image, point)
        expected = 0.5 * torch.einsum("hw,chw->c", found.weights[0], image) + image[(slice(None), *point)]
        torch.testing.assert_close(layer.eval()(image[None])[(0, slice(None), *point)], expected)


def test_sagan_attention_is_explained_too():
    torch.manual_seed(0)
    layer = SelfAttention(6)
    nn.init.constant_(layer.gamma, 0.5)
    image = torch.randn(6, 3, 5)
    (found,) = attention_maps(layer, image, (2, 4))
    value = layer.eval().value(image.flatten(1)[None])[0].unflatten(1, (3, 5))
    expected = 0.5 * torch.einsum("hw,chw->c", found.weights[0], value) + image[:, 2, 4]
    torch.testing.assert_close(layer(image[None])[0, :, 2, 4], expected)


def test_the_map_of_pooled_keys_and_the_cell_of_the_query_on_it():
    torch.manual_seed(0)
    layer = SelfAttention(6, value_ratio=1 / 2, pool=2).eval()
    nn.init.constant_(layer.gamma, 0.5)
    image = torch.randn(6, 4, 7)
    (found,) = attention_maps(layer, image, (2, 5))
    assert (found.query, found.weights.shape) == ((1, 2), (1, 2, 3))
    values = nn.functional.max_pool2d(layer.value(image.flatten(1)[None])[0].unflatten(1, (4, 7)), 2)
    mixed = torch.einsum("hw,ehw->e", found.weights[0], values)
    expected = 0.5 * layer.out(mixed[None, :, None])[0, :, 0] + image[:, 2, 5]
    torch.testing.assert_close(layer(image[None])[0, :, 2, 5], expected)


class Shapes(TorchDispatchMode):
    """The largest number of elements of any tensor that an operator gives."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


LARGE = 48  # cells a side

WITH_ATTENTION = {
    "augmented": lambda impl: AugmentedConv2d(
        3, 6, 3, padding=1, key_channels=4, value_channels=4, num_heads=2, feat_size=LARGE, impl=impl
    ),
    "sagan": lambda _: SelfAttention(3),
    "simple": lambda _: SimpleSelfAttention(3),
}


@pytest.mark.parametrize("kind", WITH_ATTENTION)
def test_memory_is_linear_in_the_positions(kind):
    layer, pairs = WITH_ATTENTION[kind]("blocked"), LARGE**4
    image = torch.randn(3, LARGE, LARGE)
    with Shapes() as shapes:
        attention_maps(layer, image, (20, 30))
    assert LARGE**2 <= shapes.largest < pairs / 100
    # The mode does not see inside the layer's own kernel, but the profiler does.
    assert peak_bytes(lambda: attention_maps(layer, image, (20, 30)), torch.device("cpu")) < 4 * pairs


def test_the_probe_sees_all_pairs_where_they_are_held():
    layer = WITH_ATTENTION["augmented"]("eager")
    with Shapes() as shapes:
        attention_maps(layer, torch.randn(3, LARGE, LARGE), (20, 30))
    assert shapes.largest >= LARGE**4
    assert peak_bytes(lambda: layer(torch.randn(1, 3, LARGE, LARGE)), torch.device("cpu")) >= 4 * LARGE**4


def test_many_points_of_one_run_are_the_points_one_by_one():
    model, image, points = network(), torch.randn(3, 16, 12), [(0, 0), (9, 3), (15, 11)]
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    attention = ImageAttention(model, image)
    many = [attention.maps(point) for point in points]
    assert len(runs) == 1 + 3  # and once without each layer
    for maps, point in zip(many, points, strict=True):
        for found, expected in zip(maps, attention_maps(model, image, point), strict=True):
            assert (found.layer, found.query) == (expected.layer, expected.query)
            assert torch.equal(found.weights, expected.weights)


class Emptied(nn.Module):
    """What it gave its attention is overwritten."""

    def __init__(self, kind):
        super().__init__()
        self.attention = kind(3)

    def forward(self, x):
        x = x + 1
        y = self.attention(x)
        x.zero_()
        return y


class ReusedInput(nn.Module):
    """Its attention's output is changed in place, and its input still needed."""

    def __init__(self, kind):
        super().__init__()
        self.attention = kind(3)

    def forward(self, x):
        return self.attention(x).zero_() + x


@pytest.mark.parametrize("kind", [SelfAttention, SimpleSelfAttention])
def test_an_output_changed_in_place_leaves_the_input_of_a_layer_that_is_off(kind):
    (found,) = attention_maps(ReusedInput(kind), torch.rand(3, 4, 5), (1, 2))
    assert found.logits_moved == 0


@pytest.mark.parametrize("kind", [SelfAttention, SimpleSelfAttention])
def test_what_a_layer_saw_is_kept_for_points_that_come_later(kind):
    torch.manual_seed(0)
    model, image = Emptied(kind), torch.randn(3, 4, 5)
    (found,) = ImageAttention(model, image).maps((1, 2))
    (expected,) = attention_maps(model.attention, image + 1, (1, 2))
    assert expected.weights.abs().sum() > 0
    torch.testing.assert_close(found.weights, expected.weights)


def test_the_output_is_kept_too():
    model, image = network().eval(), torch.randn(3, 16, 12)
    attention = ImageAttention(model, image)
    torch.testing.assert_close(attention.output, model(image[None]))
    assert not attention.output.requires_grad
    assert not attention.maps((1, 2))[0].weights.requires_grad


class Flat(nn.Module):
    """Attention over the pixels in a line."""

    def __init__(self):
        super().__init__()
        self.attention = SelfAttention(3)

    def forward(self, x):
        return self.attention(x.flatten(2))


def test_layers_without_rows_and_columns_are_left_out():
    with pytest.raises(ValueError, match="no attention layer of Flat ran on a map of rows and columns"):
        attention_maps(Flat(), torch.randn(3, 4, 5), (0, 0))
    model = nn.Sequential(SelfAttention(3), Flat())
    assert [found.layer for found in attention_maps(model, torch.randn(3, 4, 5), (0, 0))] == ["0"]


def test_layers_and_heads_are_chosen():
    maps = attention_maps(network(), torch.randn(3, 16, 12), (5, 11))
    assert choose_maps(maps) == maps
    (found,) = choose_maps(maps, layer="layer2.0")
    assert found is maps[1]
    chosen = choose_maps(maps, head=3)
    assert [found.heads for found in chosen] == [(3,)] * 3
    assert all(torch.equal(a.weights[0], b.weights[2]) for a, b in zip(chosen, maps, strict=True))
    assert choose_maps(chosen, layer="layer1.0", head=3)[0].heads == (3,)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layer": "layer2"}, "unknown attention layer 'layer2'; nearest: 'layer2.0'"),
        ({"layer": "q"}, "unknown attention layer 'q'; known: layer1.0, layer2.0, layer3.0"),
        ({"head": 5}, "attention layer 'layer1.0' has no head 5: its heads are 1 to 4"),
        ({"head": 0}, "head must be at least 1, got 0"),
    ],
)
def test_a_choice_that_is_not_there_gets_a_sentence(choice, message):
    maps = attention_maps(network(), torch.randn(3, 16, 12), (5, 11))
    with pytest.raises(ValueError, match=message):
        choose_maps(maps, **choice)


def test_the_only_head_is_named():
    maps = attention_maps(SelfAttention(3), torch.randn(3, 4, 5), (0, 0))
    with pytest.raises(ValueError, match="has no head 2: it has one, number 1"):
        choose_maps(maps, head=2)


def test_the_network_is_left_as_it_was():
    model = network().train()
    model.layer2.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attention_maps(model, torch.randn(3, 16, 16), (0, 0))
    assert model.training
    assert not model.layer2.training
    assert not any(m._forward_pre_hooks for m in model.modules())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "shape", "point", "message"),
    [
        (nn.Conv2d(3, 4, 1), (3, 8, 8), (0, 0), "Conv2d has no attention layer to explain"),
        (SelfAttention(3), (3, 8, 9), (8, 0), r"the image of 8 x 9 pixels, got \(8, 0\)"),
        (SelfAttention(3), (3, 8, 9), (0, -1), r"the image of 8 x 9 pixels, got \(0, -1\)"),
        (SelfAttention(3), (1, 3, 8, 9), (0, 0), r"image must be \(channels, rows, columns\), got \(1, 3, 8, 9\)"),
    ],
)
def test_bad_input_gets_a_sentence(model, shape, point, message):
    with pytest.raises(ValueError, match=message):
        attention_maps(model, torch.zeros(shape), point)


def gated(gamma, classes=3):
    """A classifier of 6 x 9 images with one layer of either gated kind, of which the first has this gamma."""
    torch.manual_seed(0)
    layers = SimpleSelfAttention(4), SelfAttention(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *layers, nn.Flatten(), nn.Linear(4 * 6 * 9, classes))
    nn.init.constant_(layers[0].gamma, gamma)
    nn.init.ones_(layers[1].gamma)
    nn.init.normal_(layers[0].conv.weight)
    return model.eval()


def without_first(model, image):
    """The logits at gamma 0, and how far they are from the network's own, of their norm."""
    with torch.no_grad():
        before = model(image[None]).double()
        kept, model[1].gamma.data = model[1].gamma.data, torch.zeros_like(model[1].gamma)
        after = model(image[None]).double()
        model[1].gamma.data = kept
    return ((after - before).norm() / before.norm()).item()


@pytest.mark.parametrize(("gamma", "active"), [(0.0, False), (1e-7, False), (1.0, True)])
def test_a_layer_is_inactive_if_the_answer_is_the_same_without_it(gamma, active):
    model, image = gated(gamma), torch.rand(3, 6, 9)
    first, second = attention_maps(model, image, (3, 4))
    assert first.logits_moved == pytest.approx(without_first(model, image), rel=1e-3, abs=1e-12)
    assert (first.active, second.active) == (active, True)
    assert second.logits_moved > 1e-3
    said = f"inactive: switching it off moves the logits by {first.logits_moved:.1g} of their norm"
    assert first.remark == ("" if active else said)


def test_a_layer_that_changes_the_prediction_is_active_however_little_it_moves():
    model, image = gated(1e-5), torch.rand(3, 6, 9)
    last = model[4]
    with torch.no_grad():  # two classes that only attention tells apart, and a large logit
        off = model[2](model[0](image[None])).flatten()
        on = model[:3](image[None]).flatten()
        last.weight.zero_()
        last.weight[0] = on - off
        last.bias.copy_(torch.tensor([0.0, 0.0, -1e6]))
        last.bias[1] = last.weight[0] @ (on + off) / 2
    found = attention_maps(model, image, (3, 4))[0]
    assert found.logits_moved < 1e-3
    assert found.active
    assert found.remark == ""


class Answers(nn.Module):
    """A network that gives its answer in a dictionary."""

    def __init__(self):
        super().__init__()
        self.attention = SimpleSelfAttention(3)

    def forward(self, x):
        return {"out": self.attention(x)}


def test_of_an_output_without_logits_nothing_is_known():
    (found,) = attention_maps(Answers(), torch.rand(3, 4, 5), (0, 0))
    assert (found.logits_moved, found.active, found.remark) == (None, True, "")


def test_a_map_below_4_x_4_cells_says_that_it_is_not_drawn():
    maps = attention_maps(network(), torch.rand(3, 8, 12), (1, 2))
    assert [found.is_coarse for found in maps] == [False, False, True]
    assert maps[2].remark == "not drawn: its map of 2 x 3 cells is below 4 x 4"
    assert drawable(maps) == maps[:2]
    with pytest.raises(ValueError, match=r"nothing to draw: layer3\.0 has 2 x 3 cells; a picture needs 4 x 4"):
        drawable(maps[2:])
