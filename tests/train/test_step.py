"""What a step computes: in parts, clipped, with soft labels, in other memory formats, compiled."""

import dataclasses

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from train.toy import CLASSES, MemoryLoader, toy_config, toy_net, val_loader

from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.device import make_engine, make_fabric
from attnconv.train.fit import fit
from attnconv.train.optim import one_cycle, one_cycle_momentum
from attnconv.train.processes import Ranks
from attnconv.train.run_folder import RunFolder
from attnconv.train.run_state import RunState
from attnconv.train.step import FILLERS, compute_gradients, set_rates, train_step


def state_of(out, model, **options):
    config = toy_config(schedule="constant", momentum=0, weight_decay=0, **options)
    engine = make_engine(model, config, make_fabric("cpu"))
    return engine, RunState(engine, config=config, batches=4, folder=RunFolder(out), meta={})


def stepped(out, images, labels, seed=0, **options):
    """The network after one step, the sums noted, and how far each weight moved."""
    model = toy_net(seed, dropout=0.0)
    model.norm.eval()  # statistics of a part are not those of the whole
    before = torch.cat([weight.detach().clone().flatten() for weight in model.parameters()])
    engine, state = state_of(out, model, **options)
    train_step(engine, state, images, labels)
    state.sums.flush(out)
    after = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    return after - before, state.sums


@pytest.fixture(scope="module")
def batch():
    return next(iter(MemoryLoader(shuffle=False).epoch(0)))


@pytest.mark.parametrize("parts", [2, 3, 5, 8])
def test_in_parts_a_step_is_the_same(tmp_path, batch, parts):
    whole, whole_sums = stepped(tmp_path, *batch)
    moved, sums = stepped(tmp_path, *batch, accumulate=parts)  # 8 images: the last part may be smaller
    torch.testing.assert_close(moved, whole, rtol=1e-4, atol=1e-7)
    assert (sums.hits, sums.images) == (whole_sums.hits, 8)
    assert sums.loss == pytest.approx(whole_sums.loss, rel=1e-5)


def test_a_step_without_images_does_nothing(tmp_path, batch):
    moved, sums = stepped(tmp_path, *(t[:0] for t in batch))
    assert not moved.any()
    assert sums.images == 0


def test_clipping_limits_the_norm_of_all_gradients(tmp_path, batch):
    free, _ = stepped(tmp_path, *batch, lr=1.0)
    norm = free.norm().item()
    assert norm > 0.1
    clipped, _ = stepped(tmp_path, *batch, lr=1.0, clip=norm / 4)
    torch.testing.assert_close(clipped, free / 4, rtol=1e-3, atol=1e-6)
    loose, _ = stepped(tmp_path, *batch, lr=1.0, clip=norm * 4)
    torch.testing.assert_close(loose, free)


def test_probabilities_for_labels(tmp_path, batch):
    images, labels = batch
    hard, hard_sums = stepped(tmp_path, images, labels)
    soft, soft_sums = stepped(tmp_path, images, torch.nn.functional.one_hot(labels, CLASSES).float())
    torch.testing.assert_close(soft, hard)
    assert (soft_sums.hits, soft_sums.loss) == (hard_sums.hits, pytest.approx(hard_sums.loss))


CYCLE = {"schedule": "one-cycle", "base_momentum": 0.7, "max_momentum": 0.9, "warmup": 0.25, "epochs": 4}


def momenta(engine):
    return [group["betas"][0] if "betas" in group else group["momentum"] for group in engine.optimizer.param_groups]


@pytest.mark.parametrize("factor", [1.0, 0.25])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop", "ranger"])
def test_rates_are_those_of_the_step_and_a_return_scales_the_learning_rate_alone(tmp_path, optimizer, factor):
    """In 16 steps the rate rises over 4, and the momentum falls."""
    config = toy_config(optimizer=optimizer, lr=0.5, **CYCLE)
    engine = make_engine(toy_net(), config, make_fabric("cpu"))
    state = RunState(engine, config=config, batches=4, folder=RunFolder(tmp_path), meta={})
    state.lr_factor = factor
    for epoch, batch, lr, momentum in [(0, 0, 0.05, 0.9), (0, 2, 0.275, 0.8), (1, 0, 0.5, 0.7), (2, 2, 0.25, 0.8)]:
        state.epoch, state.step_in_epoch = epoch, batch
        assert set_rates(engine, state) == pytest.approx(factor * lr)
        assert [group["lr"] for group in engine.optimizer.param_groups] == pytest.approx([factor * lr] * 2)
        assert momenta(engine) == pytest.approx([momentum] * 2)


def test_without_a_cycle_the_momentum_is_left_alone(tmp_path):
    engine, state = state_of(tmp_path, toy_net())
    engine.optimizer.param_groups[1]["momentum"] = 0.123
    set_rates(engine, state)
    assert momenta(engine) == [0, 0.123]


def test_a_run_that_went_back_keeps_the_momentum_of_its_steps(tmp_path, monkeypatch):
    seen = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD,
        "step",
        lambda self, *a: (seen.append({(g["lr"], g["momentum"]) for g in self.param_groups}), step(self, *a))[1],
    )
    train = MemoryLoader(faults={(1, 1): lambda images: images * float("nan")})
    config = toy_config(on_nan="rollback", lr=0.01, **CYCLE)
    fit(toy_net(), train, val_loader(), config=config, out=tmp_path, meta={}, progress=False)
    # Noticed at the end of the epoch; back to its beginning, where the step is left out.
    steps = [(n, 1.0) for n in range(8)] + [(n, 0.5) for n in range(4, 16) if n != 5]
    assert len(seen) == len(steps)
    for found, (number, factor) in zip(seen, steps, strict=True):
        lr = factor * one_cycle(number, 16, peak=0.01, warmup=0.25)
        assert found == {(lr, one_cycle_momentum(number, 16, base=0.7, largest=0.9, warmup=0.25))}


def run(out, **options):
    model = toy_net()
    fit(model, MemoryLoader(), val_loader(), config=toy_config(**options), out=out, meta={}, progress=False)
    return model


def test_channels_last_is_kept_over_a_resume(tmp_path):
    plain, model = run(tmp_path / "plain"), run(tmp_path / "last", channels_last=True)
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model.conv.weight, plain.conv.weight, rtol=1e-3, atol=1e-5)
    assert load_checkpoint(tmp_path / "last" / "last.pt")["model"]["conv.weight"].stride() == model.conv.weight.stride()


def test_compile_runs_the_network_through_the_compiler(tmp_path, monkeypatch):
    compiled, compile = [], torch.compile

    def eager(model=None, **options):
        compiled.append(model)
        return compile(model, **{**options, "backend": "eager"})

    monkeypatch.setattr(torch, "compile", eager)
    model = run(tmp_path, compile=True, epochs=1)
    assert model in compiled
    assert load_checkpoint(tmp_path / "last.pt")["model"].keys() == toy_net().state_dict().keys()


class OneOfTwo(Ranks):
    """Process 0 of two, of which the other one has ``images`` and makes ``parts`` of them at most."""

    def __init__(self, fabric, images=0, parts=1):
        super().__init__(fabric)
        self.world, self.others, self.parts = 2, images, parts

    def sum(self, values):
        return values + self.others if values.ndim == 0 else values

    def largest(self, number):
        return max(number, self.parts)


@pytest.mark.parametrize("soft", [False, True])
def test_a_process_without_images_takes_part_and_counts_for_nothing(tmp_path, batch, soft):
    images, labels = (t[:0] for t in batch)
    if soft:  # as mixed images have them
        labels = torch.nn.functional.one_hot(labels, CLASSES).float()
    model = toy_net(dropout=0.0)
    engine, state = state_of(tmp_path, model, skip_bad_images=True, accumulate=2)
    engine = dataclasses.replace(engine, ranks=OneOfTwo(engine.fabric, images=8))
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    sums = compute_gradients(engine, state.config, images, labels, 2 / 8)
    assert seen == [FILLERS]
    assert sums.tolist() == [0, 0, 0]
    assert all(not weight.grad.any() for weight in model.parameters())


def test_a_loss_scaler_outlives_a_step_that_is_left_out(tmp_path, batch):
    """What clipping has unscaled must not be unscaled again."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    fabric = Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    model = toy_net(dropout=0.0)
    config = toy_config(on_nan="skip", clip=1.0)
    engine = make_engine(model, config, fabric)
    state = RunState(engine, config=config, batches=4, folder=RunFolder(tmp_path), meta={})
    for number, factor in enumerate((1.0, float("nan"), 1.0)):
        state.step_in_epoch = number
        before = model.head.weight.detach().clone()
        train_step(engine, state, batch[0] * factor, batch[1])
        assert torch.equal(before, model.head.weight) == (number == 1)
    assert state.left_out == [1]
