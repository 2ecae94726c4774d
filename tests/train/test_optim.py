"""Optimisers, schedules of learning rate and momentum, and which weights decay."""

import copy
import math

import pytest
import torch
from torch import nn
from train.toy import toy_config, toy_net

from attnconv import Attention, AugmentedConv2d, SelfAttention, SimpleSelfAttention
from attnconv.train.device import make_engine, make_fabric
from attnconv.train.optim import SCHEDULES, Ranger, build_optimizer, decay_groups, one_cycle_momentum, set_momentum


def names_of(model, group):
    return {name for name, parameter in model.named_parameters() if any(parameter is p for p in group["params"])}


def test_norms_and_biases_do_not_decay():
    model = toy_net()
    decayed, spared = decay_groups(model, 0.01)
    assert decayed["weight_decay"] == 0.01
    assert names_of(model, decayed) == {"conv.weight", "head.weight", "key_rel_w"}
    assert spared["weight_decay"] == 0
    assert names_of(model, spared) == {"norm.weight", "norm.bias", "head.bias"}


def test_an_attention_layer_names_its_own_parameters_and_no_others():
    class Tabled(Attention):
        def __init__(self):
            super().__init__()
            self.table, self.weight = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(3, 2))

        def no_weight_decay(self):
            return {"table"}

    model = nn.ModuleDict({"first": Tabled(), "table": nn.Linear(3, 2, bias=False)})
    decayed, spared = decay_groups(model, 0.01)
    assert names_of(model, decayed) == {"first.weight", "table.weight"}
    assert names_of(model, spared) == {"first.table"}
    assert names_of(model["first"], decay_groups(model["first"], 0.01)[1]) == {"table"}


def test_frozen_parameters_are_left_out():
    model = toy_net()
    model.conv.weight.requires_grad_(False)
    assert names_of(model, decay_groups(model, 0.01)[0]) == {"head.weight", "key_rel_w"}


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


SETTINGS = {"lr": 0.05, "betas": (0.9, 0.99), "eps": 1e-6}


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(3, 4, generator=generator).requires_grad_(),
        torch.randn(5, generator=generator).requires_grad_(),
    ]


def take_steps(optimizer, parameters, steps, start=0):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator) + p.detach()
        optimizer.step()


@pytest.mark.parametrize("steps", [5, 6, 20])
def test_it_is_lookahead_around_radam(steps):
    ours, theirs = weights(), weights()
    take_steps(Ranger(ours, **SETTINGS), ours, steps)
    radam, slow = torch.optim.RAdam(theirs, **SETTINGS), [p.detach().clone() for p in theirs]
    for step in range(steps):
        take_steps(radam, theirs, 1, start=step)
        if step % 6 == 5:
            slow = [(s + p.detach()) / 2 for s, p in zip(slow, theirs, strict=True)]
            for p, s in zip(theirs, slow, strict=True):
                p.data.copy_(s)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("steps", [3, 6, 8])
def test_a_state_dict_holds_all_that_it_goes_on_from(steps):
    whole, half = weights(), weights()
    take_steps(Ranger(whole, **SETTINGS), whole, 15)
    before = Ranger(half, **SETTINGS)
    take_steps(before, half, steps)
    other = [p.detach().clone().requires_grad_() for p in half]
    after = Ranger(other, **SETTINGS)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    take_steps(after, other, 15 - steps, start=steps)
    for a, b in zip(whole, other, strict=True):
        assert torch.equal(a, b)


def test_without_the_slow_weights_it_would_go_elsewhere():
    """That the test above can fail."""
    whole, other = weights(), weights()
    take_steps(Ranger(whole, **SETTINGS), whole, 15)
    optimizer = Ranger(other, **SETTINGS)
    take_steps(optimizer, other, 8)
    for p in other:
        optimizer.state[p]["slow"].copy_(p.detach())
    take_steps(optimizer, other, 7, start=8)
    assert not torch.equal(whole[0], other[0])


def test_a_parameter_without_gradient_stays_and_has_no_state():
    used, unused = weights()
    before = unused.detach().clone()
    optimizer = Ranger([used, unused], **SETTINGS)
    for _ in range(7):
        used.grad = torch.ones_like(used)
        optimizer.step()
    assert torch.equal(unused, before)
    assert list(optimizer.state) == [used]


def test_steps_that_a_loss_scaler_leaves_out_do_not_count():
    """Four of eleven overflow: the look ahead comes after six that were taken."""
    ours, theirs = weights(), weights()
    optimizer = Ranger(ours, **SETTINGS)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=1000)
    taken = 0
    for step in range(11):
        overflow = step in (0, 3, 4, 8)
        generator = torch.Generator().manual_seed(taken)
        for p in ours:
            p.grad = torch.randn(p.shape, generator=generator) + p.detach()
            p.grad = torch.full_like(p, torch.inf) if overflow else p.grad * scaler.get_scale()
        scaler.scale(torch.zeros(()))  # makes its scale
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        taken += not overflow
    assert taken == 7
    take_steps(Ranger(theirs, **SETTINGS), theirs, 7)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_its_memory_is_one_copy_more():
    model = toy_net()
    optimizer = build_optimizer(model, toy_config(optimizer="ranger"))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert {frozenset(state) for state in optimizer.state.values()} == {
        frozenset({"step", "exp_avg", "exp_avg_sq", "slow"})
    }


# Of 100 steps with a peak of 2; the expected values are worked out by hand.
@pytest.mark.parametrize(
    ("name", "warmup", "step", "expected"),
    [
        ("one-cycle", 0.3, 0, 0.2),
        ("one-cycle", 0.3, 15, 1.1),  # half way up: the mean of 0.2 and 2
        ("one-cycle", 0.3, 10, 0.2 + 1.8 * 0.25),  # a third: (1 - cos 60 degrees) / 2
        ("one-cycle", 0.3, 30, 2.0),
        ("one-cycle", 0.3, 65, 1.0),
        ("one-cycle", 0.3, 99, 1 + math.cos(math.pi * 69 / 70)),
        ("one-cycle", 0.0, 0, 2.0),
        ("cosine", 0.05, 0, 0.0),
        ("cosine", 0.05, 2, 0.8),
        ("cosine", 0.05, 5, 2.0),
        ("cosine", 0.1, 40, 1.5),  # a third of the way down: (1 + cos 60 degrees) / 2
        ("cosine", 0.0, 0, 2.0),
        ("cosine", 0.0, 50, 1.0),
        ("flat-cosine", 0.3, 0, 2.0),
        ("flat-cosine", 0.3, 75, 2.0),
        ("flat-cosine", 0.3, 80, 1 + math.cos(math.pi / 5)),  # a fifth of the way down
        ("flat-cosine", 0.0, 99, 1 + math.cos(math.pi * 24 / 25)),
        ("constant", 0.3, 0, 2.0),
        ("constant", 0.3, 99, 2.0),
    ],
)
def test_learning_rates(name, warmup, step, expected):
    assert SCHEDULES[name](step, 100, peak=2.0, warmup=warmup) == pytest.approx(expected, abs=1e-12)


# Of 100 steps between 0.85 and 0.95, worked out by hand.
@pytest.mark.parametrize(
    ("warmup", "step", "expected"),
    [
        (0.3, 0, 0.95),
        (0.3, 10, 0.925),  # a third of the way: a quarter of the height
        (0.3, 15, 0.9),
        (0.3, 30, 0.85),
        (0.3, 65, 0.9),
        (0.3, 99, 0.95 - 0.05 * (1 + math.cos(math.pi * 69 / 70))),
        (0.0, 0, 0.85),
    ],
)
def test_the_momentum_of_one_cycle(warmup, step, expected):
    found = one_cycle_momentum(step, 100, base=0.85, largest=0.95, warmup=warmup)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["one-cycle", "cosine", "flat-cosine"])
def test_the_last_rate_is_nearly_zero(name):
    assert 0 < SCHEDULES[name](9999, 10000, peak=1.0, warmup=0.3) < 1e-6


@pytest.mark.parametrize(
    ("name", "expected"), [("one-cycle", 0.1), ("cosine", 0.0), ("flat-cosine", 1.0), ("constant", 1.0)]
)
def test_a_run_of_one_step(name, expected):
    assert SCHEDULES[name](0, 1, peak=1.0, warmup=0.3) == pytest.approx(expected)
