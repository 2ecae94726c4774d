"""Ranger: Lookahead around RAdam, against both written out; its state is all that it goes on from."""

import copy

import pytest
import torch
from train.toy import toy_config, toy_net

from attnconv.train.optim import build_optimizer
from attnconv.train.ranger import Ranger

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
    """Of eleven, four overflow: the look ahead comes after six that were taken."""
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
