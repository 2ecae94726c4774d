import pytest
import torch
from torch import nn
from train.toy import toy_config, toy_net

from attnconv.train.optim import build_optimizer, decay_groups


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
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.8, "alpha": 0.99, "eps": 1e-6}),
    ],
)
def test_each_optimizer(name, kind, settings):
    optimizer = build_optimizer(toy_net(), toy_config(optimizer=name, momentum=0.8, weight_decay=0.03))
    assert type(optimizer) is kind
    assert settings.items() <= optimizer.defaults.items()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.03, 0]
