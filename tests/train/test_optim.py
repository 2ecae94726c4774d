import pytest
import torch
from torch import nn
from train.toy import toy_config, toy_net

from attnconv import AugmentedConv2d, SelfAttention, SimpleSelfAttention
from attnconv.train.device import make_fabric
from attnconv.train.engine import make_engine
from attnconv.train.optim import build_optimizer, decay_groups, set_momentum
from attnconv.train.ranger import Ranger


def names_of(model, group):
    return {name for name, parameter in model.named_parameters() if any(parameter is p for p in group["params"])}


def test_norms_biases_and_position_tables_do_not_decay():
    model = toy_net()
    decayed, spared = decay_groups(model, 0.01)
    assert decayed["weight_decay"] == 0.01
    assert names_of(model, decayed) == {"conv.weight", "head.weight"}
    assert spared["weight_decay"] == 0
    assert names_of(model, spared) == {"norm.weight", "norm.bias", "head.bias", "key_rel_w"}


def test_only_the_last_part_of_a_name_makes_a_table():
    model = nn.ModuleDict({"key_rel_net": nn.Linear(3, 2, bias=False)})
    decayed, spared = decay_groups(model, 0.01)
    assert names_of(model, decayed) == {"key_rel_net.weight"}
    assert spared["params"] == []


def test_frozen_parameters_are_left_out():
    model = toy_net()
    model.conv.weight.requires_grad_(False)
    assert names_of(model, decay_groups(model, 0.01)[0]) == {"head.weight"}


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.8, "nesterov": False}),
        ("adam", torch.optim.Adam, {"betas": (0.8, 0.99), "eps": 1e-6}),
        ("adamw", torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-6}),
        ("radam", torch.optim.RAdam, {"betas": (0.8, 0.99), "eps": 1e-6, "decoupled_weight_decay": True}),
        ("ranger", Ranger, {"betas": (0.8, 0.99), "eps": 1e-6, "decoupled_weight_decay": True}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.8, "alpha": 0.99, "eps": 1e-6}),
    ],
)
def test_each_optimizer(name, kind, settings):
    optimizer = build_optimizer(toy_net(), toy_config(optimizer=name, momentum=0.8, weight_decay=0.03))
    assert type(optimizer) is kind
    assert settings.items() <= optimizer.defaults.items()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.03, 0]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "radam", "ranger", "rmsprop"])
def test_a_momentum_is_set_in_every_group(name):
    config = toy_config(optimizer=name, base_momentum=0.7, max_momentum=0.8)
    optimizer = build_optimizer(toy_net(), config)
    key = "betas" if "betas" in optimizer.defaults else "momentum"
    assert [group[key] for group in optimizer.param_groups] == [(0.8, 0.99) if key == "betas" else 0.8] * 2
    set_momentum(optimizer, 0.75)
    assert [group[key] for group in optimizer.param_groups] == [(0.75, 0.99) if key == "betas" else 0.75] * 2


def test_norms_over_several_axes_do_not_decay():
    model = nn.ModuleDict({"norm": nn.LayerNorm((4, 3, 2)), "conv": nn.Conv2d(2, 3, 1)})
    assert names_of(model, decay_groups(model, 0.01)[0]) == {"conv.weight"}


@pytest.mark.parametrize("layer", [SimpleSelfAttention, SelfAttention])
def test_gammas_do_not_decay_and_weights_under_spectral_norm_do(layer):
    model = layer(8)
    decayed, spared = (names_of(model, group) for group in decay_groups(model, 0.01))
    assert spared == {"gamma"}
    assert decayed
    assert all(name.endswith("parametrizations.weight.original") for name in decayed)


def test_position_tables_of_a_layer_do_not_decay():
    model = AugmentedConv2d(4, 6, 3, padding=1, key_channels=4, value_channels=4, num_heads=2, feat_size=(5, 7))
    spared = names_of(model, decay_groups(model, 0.01)[1])
    assert {"key_rel_h", "key_rel_w"} <= spared
    assert all(name.startswith("key_rel") or name.endswith("bias") for name in spared)


def test_a_tied_weight_is_in_one_group_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    decayed, spared = decay_groups(model, 0.01)
    assert (len(decayed["params"]), len(spared["params"])) == (1, 2)


def test_a_compiled_run_decays_what_a_plain_one_does():
    engines = [make_engine(toy_net(), toy_config(compile=compile), make_fabric("cpu")) for compile in (False, True)]
    groups = [[names_of(engine.bare, group) for group in engine.optimizer.param_groups] for engine in engines]
    assert groups[0] == groups[1]
