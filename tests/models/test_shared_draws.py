"""A network with attention has, at one seed, the first weights of its plain twin."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from attnconv.foreign import Found
from attnconv.layers import draws
from attnconv.models import create_model, init_from
from attnconv.surgery import augment

TWINS = [
    pytest.param("xresnet18", "ssa_xresnet18", {}, marks=pytest.mark.slow),
    ("xresnet18", "ssa_xresnet18", {"symmetric": True, "attention_stages": (1, 3)}),
    ("xresnet18", "ssa_xresnet18", {"se": True, "act": "mish", "stem": (16, 24, 32)}),
    pytest.param("xresnet50", "sa_xresnet50", {}, marks=pytest.mark.slow),
    pytest.param("resnet18", "aa_resnet18", {}, marks=pytest.mark.slow),
    pytest.param("resnet50", "aa_resnet50", {"pool_first": False}, marks=pytest.mark.slow),
    pytest.param("resnet18", "se_resnet18", {}, marks=pytest.mark.slow),
    ("wide_resnet10_1", "aa_wide_resnet10_1", {"shortcut": "conv"}),
    ("wide_resnet10_1", "se_wide_resnet10_1", {}),
    ("convnet3", "aa_convnet3", {"augment": (1, 2, 3)}),
    ("unet", "aa_unet", {}),
]


def made(name, seed=3, **options):
    torch.manual_seed(seed)
    return create_model(name, num_classes=10, image_size=(32, 40), **options)


def drawn(model):
    """The tensors of a state dict that were drawn: of more than two values."""
    return {k: v for k, v in model.state_dict().items() if v.is_floating_point() and v.unique().numel() > 2}


@pytest.mark.parametrize(("plain", "name", "options"), TWINS)
def test_every_drawn_tensor_of_one_name_and_shape_is_equal(plain, name, options):
    shared = {key: value for key, value in options.items() if key in ("se", "act", "stem", "shortcut")}
    ours, twin = made(name, **options).state_dict(), drawn(made(plain, **shared))
    same = [key for key in twin if key in ours and ours[key].shape == twin[key].shape]
    cut = [key for key in ours if key.endswith("conv_out.weight")]
    assert len(same) + len(cut) == len(twin)  # 23 of 23 for xresnet18
    assert all(torch.equal(ours[key], twin[key]) for key in same)
    for key in cut:  # the first filters of the plain draw
        assert torch.equal(ours[key], twin[key.replace(".conv_out", "")][: len(ours[key])])


def test_xresnet18_has_23_drawn_tensors():
    assert len(drawn(made("xresnet18"))) == 23


def test_attention_of_one_name_is_the_same_whatever_else_has_attention():
    one, two = made("ssa_xresnet18").layer1[1].attention, made("ssa_xresnet18", attention_stages=(1, 2))
    assert torch.equal(one.conv.weight, two.layer1[1].attention.conv.weight)
    assert one.conv.weight.shape != two.layer2[1].attention.conv.weight.shape
    deep, alone = (made("aa_resnet18", stages=stages, pool_first=False).layer4[0].conv1 for stages in ((3, 4), (4,)))
    assert torch.equal(deep.qkv_conv.weight, alone.qkv_conv.weight)
    assert torch.equal(deep.key_rel_w, alone.key_rel_w)


def test_attention_differs_from_layer_to_layer_and_from_seed_to_seed():
    layer = made("aa_wide_resnet16_1").layer3
    assert layer[1].conv1.attn_out.weight.shape == layer[0].conv1.attn_out.weight.shape
    assert not torch.equal(layer[1].conv1.attn_out.weight, layer[0].conv1.attn_out.weight)
    other = made("aa_wide_resnet16_1", seed=4).layer3
    assert not torch.equal(layer[1].conv1.attn_out.weight, other[1].conv1.attn_out.weight)


def test_the_draws_of_a_layer_are_these():
    """SHA-256 of the generator's state and the name; a run made by an older version can be made again."""
    torch.manual_seed(3)
    with draws.own_generator(draws.generator_state(), "layer1.1.attention"):
        assert torch.rand(3).tolist() == pytest.approx([0.28412914, 0.53747594, 0.60169852], abs=1e-7)


def test_two_networks_after_one_seed_differ():
    torch.manual_seed(0)
    first, second = (create_model("ssa_xresnet18", num_classes=2, image_size=32) for _ in range(2))
    assert not torch.equal(first.layer1[1].attention.conv.weight, second.layer1[1].attention.conv.weight)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_divisor_of_spectral_norm_is_that_of_the_drawn_weight(symmetric):
    weight = made("ssa_xresnet18", symmetric=symmetric).layer1[1].attention.conv.weight.detach()[..., 0]
    assert torch.linalg.matrix_norm(weight, 2) == pytest.approx(1, abs=0.1)  # 106 under the vectors of another draw


def test_attention_is_drawn_by_the_networks_rule():
    torch.manual_seed(0)
    conv = create_model("aa_resnet50", num_classes=10, image_size=224).layer4[1].conv2.qkv_conv
    expected = (2 / (conv.out_channels * 1 * 1)) ** 0.5  # He-normal by fan-out
    assert conv.weight.std().item() == pytest.approx(expected, rel=0.02)


def test_the_generator_goes_on_as_after_the_plain_network():
    made("aa_resnet18")
    after = torch.rand(3)
    made("resnet18")
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize("pretending", [FakeTensorMode, lambda: torch.device("meta")])
def test_networks_without_memory_are_made_without_draws(pretending):
    with pretending():
        model = create_model("aa_resnet18", num_classes=10, image_size=32)
    assert model.layer4[0].conv1.qkv_conv.weight.shape[1] == 256


SURGERY = [
    [
        {"add": {"after": ["layer1", "layer2"], "kind": "sagan"}},
        {"augment": {"where": r"layer4\..*conv2", "num_heads": 4}},
    ],
    [{"augment": {"where": r"layer4\.1\.conv2", "num_heads": 4}}, {"add": {"after": "layer2", "kind": "sagan"}}],
]


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18"])
def test_a_layer_of_surgery_draws_by_its_name_whatever_other_steps_there_are(name):
    many, few = (made(name, attention=steps).state_dict() for steps in SURGERY)
    plain, added = made(name).state_dict(), []
    for key, tensor in few.items():
        if key.replace(".inner.", ".") in plain:
            assert torch.equal(tensor, plain[key.replace(".inner.", ".")])
        else:
            assert torch.equal(tensor, many[key]), key
            added.append(key)
    assert {key.rpartition(".attention.")[0] or key for key in added} == {
        "layer2",
        *(f"layer4.1.conv2.{part}" for part in ("conv_out.weight", "qkv_conv.weight", "attn_out.weight")),
        *(f"layer4.1.conv2.key_rel_{axis}" for axis in "hw"),
    }
    one, two = (many[f"layer4.{block}.conv2.qkv_conv.weight"] for block in (0, 1))
    assert not torch.equal(one, two)


def test_attention_of_surgery_does_not_depend_on_the_classes_or_on_what_reading_weights_draws(monkeypatch):
    steps = [{"add": {"after": "layer2", "kind": "sagan"}}]
    plain = made("resnet18").state_dict()

    def draw(*_):
        torch.rand(7)
        return Found(plain, "a file", "")

    monkeypatch.setattr(init_from, "given_weights", draw)
    first = made("resnet18", attention=steps).layer2.attention.state_dict()
    torch.manual_seed(3)
    second = create_model("resnet18", num_classes=7, image_size=(32, 40), attention=steps)
    third, _ = made("resnet18", attention=steps, init_from="a file")
    for other in (second.layer2.attention, third.layer2.attention):
        assert all(torch.equal(first[key], tensor) for key, tensor in other.state_dict().items())


def test_two_layers_of_surgery_at_one_place_have_two_names(monkeypatch):
    names, own_generator = [], draws.own_generator
    monkeypatch.setattr(draws, "own_generator", lambda state, name: names.append(name) or own_generator(state, name))
    made("resnet18", attention=[{"augment": {"where": "^layer2.1.conv2$"}}, {"add": {"after": "layer2.1.conv2"}}])
    assert names == ["layer2.1.conv2", "layer2.1.conv2.attention"]  # as the layers are called


def test_draws_of_attention_seed_no_gpu_that_is_not_restored(monkeypatch):
    torch.manual_seed(3)
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, lambda seed: pytest.fail("it seeds a GPU"))
    augment(create_model("aa_resnet18", num_classes=2, image_size=32), image_size=32, where="layer1.0.conv1")


def test_networks_without_memory_leave_the_generator_alone():
    torch.manual_seed(3)
    with torch.device("meta"):
        create_model(
            "resnet18", num_classes=2, image_size=32, attention=[{"add": {"after": "layer2", "kind": "sagan"}}]
        )
    after = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(3))


def test_surgery_twice_after_one_seed_draws_other_weights():
    trunk = made("resnet18")
    first, second = (augment(trunk, image_size=32, where="layer4.0.conv2")[0].layer4[0].conv2 for _ in range(2))
    assert not torch.equal(first.qkv_conv.weight, second.qkv_conv.weight)
