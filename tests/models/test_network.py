"""The methods that tools call on a network: stages, other sizes, dropped paths, less memory, torch.jit.script."""

import copy

import pytest
import torch
from torch import nn

from attnconv.models import create_model

BLOCKY = ["aa_resnet18", "sa_xresnet18", "aa_wide_resnet10_1", "seed_aa_wide_resnet10_1"]
NAMES = ["aa_convnet3", *BLOCKY]
STRIDES = {"aa_convnet3": [2, 4, 8], "aa_wide_resnet10_1": [1, 2, 4], "seed_aa_wide_resnet10_1": [1, 2, 4]}


def make(name, size=(32, 48), seed=0, **options):
    torch.manual_seed(seed)
    model = create_model(name, num_classes=5, image_size=size, **options)
    for key, parameter in model.named_parameters():
        if key.endswith("gamma"):
            nn.init.constant_(parameter, 0.3)
    return model


def with_open_blocks(model):
    """The last norm of an xresnet's block starts at zero, which hides the block."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_each_stage_is_as_feature_info_says(name):
    model, x = make(name).eval(), torch.randn(2, 3, 32, 48)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x))
    assert torch.equal(maps[-1], last)
    assert [info["reduction"] for info in model.feature_info] == STRIDES.get(name, [4, 8, 16, 32])
    for info, y in zip(model.feature_info, maps, strict=True):
        assert y.shape[1] == info["num_chs"]
        assert y.shape[2:] == (-(-32 // info["reduction"]), -(-48 // info["reduction"]))
        seen = []
        handle = model.get_submodule(info["module"]).register_forward_hook(
            lambda *call, seen=seen: seen.append(call[2])
        )
        model(x)
        handle.remove()
        assert torch.equal(seen[0], y)


def test_some_stages_and_no_further():
    model, x = make("aa_resnet18").eval(), torch.randn(1, 3, 32, 48)
    maps = model.forward_intermediates(x, intermediates_only=True)
    for indices, wanted in ((2, (2, 3)), ([0, -2], (0, 2)), ((3, 1), (1, 3))):
        found = model.forward_intermediates(x, indices=indices, intermediates_only=True)
        assert [y.shape for y in found] == [maps[i].shape for i in wanted]
    model.layer3.register_forward_hook(lambda *_: pytest.fail("ran too far"))
    last, found = model.forward_intermediates(x, indices=[1], stop_early=True)
    assert torch.equal(last, maps[1])
    assert torch.equal(found[0], maps[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"indices": [4]}, "indices must be of the 4 stages of ResNet, got 4"),
        ({"indices": 5}, "indices must be of the 4 stages of ResNet, got -5"),
        ({"indices": 0}, "indices must be at least 1, got 0"),
        ({"output_fmt": "NLC"}, "unknown output_fmt 'NLC'"),
    ],
)
def test_stages_that_are_not_there(settings, message):
    with pytest.raises(ValueError, match=message):
        make("resnet18").forward_intermediates(torch.randn(1, 3, 32, 32), **settings)


@pytest.mark.parametrize("name", NAMES)
def test_pruning_takes_out_what_no_stage_needs(name):
    model, x = make(name), torch.randn(2, 3, 32, 48)
    maps = copy.deepcopy(model).forward_intermediates(x, intermediates_only=True)
    assert model.prune_intermediate_layers([1]) == [1]
    found = model.forward_features(x)
    torch.testing.assert_close(found, maps[1])
    assert model(x).shape == found.shape
    assert model.num_features == model.head_hidden_size == found.shape[1]
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_classifier_stays_where_it_is_asked_to():
    model, x = make("resnet18").eval(), torch.randn(2, 3, 32, 32)
    before = model(x)
    assert model.prune_intermediate_layers([0, -1], prune_head=False) == [0, 3]
    assert torch.equal(model(x), before)
    model.prune_intermediate_layers([3])
    assert model(x).shape == (2, 512, 1, 1)


def test_a_new_classifier_is_like_the_network():
    model = make("convnet3").double().eval()
    model.reset_classifier(3)
    assert model.fc.weight.dtype == torch.float64
    assert not model.fc.training
    model.reset_classifier(0, "")
    model.reset_classifier(4)
    assert (model.global_pool, model.fc.out_features) == ("avg", 4)


def test_another_input_size_interpolates_the_tables():
    model = make("aa_resnet18", 32)
    with pytest.raises(ValueError, match="resize_feat_size"):
        model(torch.randn(2, 3, 64, 96))
    old = model.layer4[0].conv1.key_rel_w.detach()
    model.layer4.requires_grad_(False)
    model.set_input_size((64, 96))
    assert model(torch.randn(2, 3, 64, 96)).shape == (2, 5)
    assert model.layer4[0].conv1.feat_size == (2, 3)
    new = model.layer4[0].conv1.key_rel_w
    assert not new.requires_grad
    torch.testing.assert_close(new.detach()[2], old[0])
    make("resnet18").set_input_size(64)


@pytest.mark.parametrize("bad", [0, (32, 32, 32), "32"])
def test_no_input_size(bad):
    with pytest.raises(ValueError, match="img_size"):
        make("resnet18").set_input_size(bad)


def test_weights_of_another_image_size_load():
    small, large = make("aa_resnet18", 32), make("aa_resnet18", (64, 96), seed=1)
    state = small.state_dict()
    shapes = {key: value.shape for key, value in state.items()}
    large.load_state_dict(state)
    assert {key: value.shape for key, value in state.items()} == shapes
    assert torch.equal(large.conv1.weight, small.conv1.weight)
    small.set_input_size((64, 96))
    for key, value in small.state_dict().items():
        assert torch.equal(large.state_dict()[key], value), key
    again = make("aa_resnet18", 32, seed=2)
    again.load_state_dict(state)
    assert torch.equal(again.layer2[0].conv1.key_rel_h, state["layer2.0.conv1.key_rel_h"])


def test_tables_of_other_heads_do_not_load():
    with pytest.raises(RuntimeError, match=r"size mismatch for layer2\.0\.conv1\.key_rel_h"):
        make("aa_resnet18", 64).load_state_dict(make("aa_resnet18", 32, min_head_dim=24).state_dict())


@pytest.mark.parametrize("name", BLOCKY)
def test_rates_of_zero_draw_nothing(name):
    model, x = make(name).train(), torch.randn(4, 3, 32, 48)
    expected = copy.deepcopy(model)(x)
    model.set_drop_path(0.0)
    state = torch.get_rng_state()
    assert torch.equal(model(x), expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", BLOCKY)
def test_paths_are_dropped_in_training_alone(name):
    model, x = with_open_blocks(make(name)), torch.randn(4, 3, 32, 48)
    expected = copy.deepcopy(model).eval()(x)
    model.set_drop_path(0.9)
    assert torch.equal(copy.deepcopy(model).eval()(x), expected)
    torch.manual_seed(1)
    once, again = copy.deepcopy(model)(x), copy.deepcopy(model)(x)
    assert not torch.equal(once, again)


def test_rates_grow_to_the_last_block_and_paths_are_those_of_timm():
    layers = pytest.importorskip("timm").layers
    model = make("aa_resnet18")
    model.set_drop_path(0.7)
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    assert [block.drop_path_rate for block in blocks] == pytest.approx([0.1 * i for i in range(8)])
    y = torch.randn(9, 4, 3, 5)
    torch.manual_seed(3)
    found = blocks[-1].drop_path(y)
    torch.manual_seed(3)
    assert torch.equal(found, layers.drop_path(y, blocks[-1].drop_path_rate, training=True))
    assert 0 < int((found == 0).flatten(1).all(1).sum()) < 9


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [
        ("resnet18", 1.0, "drop_path_rate must be at least 0 and below 1, got 1.0"),
        ("resnet18", -0.1, "drop_path_rate must be at least 0 and below 1, got -0.1"),
        ("convnet3", 0.1, "ConvNet3 has no residual blocks, got drop_path_rate=0.1"),
    ],
)
def test_no_rate(name, rate, message):
    with pytest.raises(ValueError, match=message):
        make(name).set_drop_path(rate)


@pytest.mark.parametrize("name", BLOCKY)
def test_checkpointing_changes_no_number(name):
    """Gradients, running averages and the vectors of spectral norm after two forward passes and their backward."""
    size = (8, 12) if "wide" in name else (32, 48)
    plain, x = with_open_blocks(make(name, size)).double().train(), torch.randn(4, 3, *size, dtype=torch.float64)
    plain.set_drop_path(0.3)
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    for model in (plain, saving):
        torch.manual_seed(5)
        (model(x).square().sum() + model(x.flip(0) * 2).sum()).backward()
        model(x).sum().backward()
    for (key, found), expected in zip(saving.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-9, atol=1e-12, msg=key)
    for (key, found), expected in zip(saving.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(found, expected), key


def test_checkpointing_keeps_less():
    kept = []
    for enable in (False, True):
        model = make("aa_resnet18").train()
        model.set_grad_checkpointing(enable)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            model(torch.randn(4, 3, 32, 48))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


def test_checkpointing_can_be_ended_and_refused():
    model = make("aa_resnet18")
    model.set_grad_checkpointing()
    model.set_grad_checkpointing(False)
    assert not any(stage.grad_checkpointing for stage in (model.layer1, model.layer2, model.layer3, model.layer4))
    make("convnet3").set_grad_checkpointing(False)
    with pytest.raises(ValueError, match="ConvNet3 has no blocks for gradient checkpointing"):
        make("convnet3").set_grad_checkpointing()


@pytest.mark.slow
def test_checkpointing_compiles():
    model, x = make("aa_resnet18").eval(), torch.randn(2, 3, 32, 48)
    expected = model(x)
    model.set_grad_checkpointing()
    found = torch.compile(model, backend="aot_eager")(x)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "se_resnet18", "aa_resnet18", "xresnet50", "ssa_xresnet18"])
def test_output_stride(name, output_stride):
    size = (32, 64)
    model, x = make(name, size, output_stride=output_stride).eval(), torch.randn(1, 3, *size)
    maps = model.forward_intermediates(x, intermediates_only=True)
    reductions = [min(4 * 2**i, output_stride) for i in range(4)]
    assert [info["reduction"] for info in model.feature_info] == reductions
    assert [tuple(y.shape[2:]) for y in maps] == [(size[0] // r, size[1] // r) for r in reductions]
    make(name, size, seed=1).load_state_dict(model.state_dict())
    assert model.blueprint.options["output_stride"] == output_stride


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_dilated_windows_are_those_of_timm(name, output_stride):
    timm = pytest.importorskip("timm")
    model = make(name, output_stride=output_stride).eval()
    theirs = timm.create_model(name, num_classes=5, output_stride=output_stride).eval()
    theirs.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(model(x), theirs(x))


def test_position_tables_grow_with_the_output_stride():
    model = make("aa_resnet18", (64, 96), output_stride=8)
    assert model.layer4[1].conv1.feat_size == (8, 12)
    assert make("aa_resnet18", (64, 96)).layer4[1].conv1.feat_size == (2, 3)


@pytest.mark.parametrize("name", ["resnet18", "aa_resnet50", "ssa_xresnet18"])
def test_no_output_stride(name):
    with pytest.raises(ValueError, match="unknown output_stride 4"):
        make(name, output_stride=4)


@pytest.mark.parametrize("name", ["convnet3", "resnet18", "resnet50", "se_resnet18", "wide_resnet10_1", "xresnet18"])
def test_plain_networks_are_scripted(name):
    model, x = make(name).eval(), torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))


@pytest.mark.parametrize("options", [{"retain_graph": True}, {"create_graph": True}], ids=str)
def test_checkpointing_goes_through_two_backward_passes(options):
    model = create_model("ssa_xresnet18", num_classes=3, image_size=32)
    model.set_grad_checkpointing()
    loss = model(torch.randn(2, 3, 32, 32)).square().mean()
    parameters = list(model.parameters())
    first = torch.autograd.grad(loss, parameters, **options)
    again = torch.autograd.grad(loss, parameters)
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=1e-4, atol=1e-6)


def test_modules_of_the_users_own_do_not_run():
    model = create_model("resnet18", num_classes=3, image_size=32).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    model.criterion, model.drop = torch.nn.CrossEntropyLoss(), torch.nn.Sigmoid()
    assert torch.equal(model(x), expected)


def test_a_table_of_an_even_number_of_rows_is_refused():
    model = create_model("aa_resnet18", num_classes=3, image_size=64)
    state = model.state_dict()
    name = next(name for name in state if name.endswith("key_rel_h"))
    state[name] = state[name][:-1]
    with pytest.raises(RuntimeError, match=f"size mismatch for {name}"):
        model.load_state_dict(state)
