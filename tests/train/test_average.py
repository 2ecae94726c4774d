import signal

import pytest
import torch
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv import SelfAttention
from attnconv.train.checkpoint import load_checkpoint, load_weights
from attnconv.train.evaluate import evaluate
from attnconv.train.fit import fit
from attnconv.train.optim import WeightAverage


def test_the_average_follows_the_weights():
    model = torch.nn.Linear(1, 1, bias=False)
    values, expected = [2.0, 5.0, -1.0], 40.0
    model.weight.data.fill_(expected)
    average = WeightAverage(model, 0.25)
    for step, value in enumerate(values, 1):
        model.weight.data.fill_(value)
        average.update(step)
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.state_dict()["weight"].item() == pytest.approx(expected)
    assert (1 + 1) / (10 + 1) < 0.25 < (1 + 3) / (10 + 3)  # both decays took part
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == -1


def weights_of(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("decay", [0.4, 0.999])  # reached at step 5, and never
def test_a_run_averages_its_weights_after_each_step(tmp_path, decay):
    """The rule in a plain loop over the weights that the run had: a step is seen at the next one's forward pass."""
    model, seen = toy_net(), []
    model.register_forward_pre_hook(lambda module, _: seen.append(weights_of(module)) if module.training else None)
    config = toy_config(epochs=2, ema=decay, lr=0.3)
    fit(model, MemoryLoader(), val_loader(), config=config, out=tmp_path, meta={}, progress=False)
    steps = [*seen, weights_of(model)]
    assert len(steps) == 1 + 8
    averages = {name: weight.double() for name, weight in steps[0].items()}
    for step in range(1, 9):
        kept = min(decay, (1 + step) / (10 + step))
        for name, average in averages.items():
            averages[name] = kept * average + (1 - kept) * steps[step][name].double()
    found = load_checkpoint(tmp_path / "last.pt")["average"]
    assert found.keys() == averages.keys()
    for name, average in averages.items():
        torch.testing.assert_close(found[name].double(), average, rtol=1e-5, atol=1e-6)
    for other in (steps[0], steps[-1]):  # the first and the last weights are far from it
        assert (found["head.weight"] - other["head.weight"]).abs().max() > 1e-3


def test_an_error_in_the_block_puts_the_weights_back():
    model = toy_net()
    before = [weight.clone() for weight in model.parameters()]
    average = WeightAverage(model, 0.5)
    for values in average.averages:
        values.fill_(3)

    def interrupted():
        with average.in_place():
            assert (model.head.weight == 3).all()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_the_average_is_what_is_scored_and_what_a_checkpoint_gives(tmp_path):
    model = toy_net(dropout=0.0)
    config = toy_config(epochs=2, ema=0.8, lr=0.3)
    result = fit(model, MemoryLoader(), val_loader(), config=config, out=tmp_path, meta={}, progress=False)
    state = load_checkpoint(tmp_path / "last.pt")
    losses = {}
    for averaged in (False, True):
        other = toy_net(seed=5, dropout=0.0)
        load_weights(other, state, tmp_path / "last.pt", averaged=averaged)
        losses[averaged] = evaluate(other, val_loader()).loss
    assert losses[True] == pytest.approx(result["loss"], rel=1e-6)  # in another memory format
    assert losses[False] != pytest.approx(result["loss"], rel=1e-4)
    assert torch.equal(state["model"]["head.weight"], model.head.weight)  # the model itself keeps the trained ones


def test_what_is_said_of_the_best_epoch_is_of_its_average(tmp_path, monkeypatch):
    model, seen = toy_net(), {}
    model.attention = SelfAttention(8)  # it does not run, but networks without any are not looked at

    def last_epoch(model, images):
        seen["last"] = model.head.weight.detach().clone()
        return {}

    def at_the_end(model, loader, ranks):
        seen["best"] = model.head.weight.detach().clone()
        return {"seen": True}

    monkeypatch.setattr("attnconv.train.fit.attention_activity", last_epoch)
    monkeypatch.setattr("attnconv.train.fit.scores_without_attention", at_the_end)
    config = toy_config(epochs=2, ema=0.8, lr=0.3)
    loaders = MemoryLoader(), val_loader()
    result = fit(model, *loaders, config=config, out=tmp_path, meta={}, progress=False)
    last, best = (load_checkpoint(tmp_path / name) for name in ("last.pt", "best.pt"))
    assert torch.equal(seen["last"], last["average"]["head.weight"])
    assert torch.equal(seen["best"], best["average"]["head.weight"])
    assert not torch.equal(seen["best"], best["model"]["head.weight"])
    assert result["attention_off"] == {"seen": True}
    assert torch.equal(model.head.weight, last["model"]["head.weight"])  # the trained ones are back


def test_the_best_network_is_looked_at_in_the_runs_precision(tmp_path, monkeypatch):
    model = toy_net()
    model.attention = SelfAttention(8)
    monkeypatch.setattr(
        "attnconv.train.fit.scores_without_attention",
        lambda model, loader, ranks: {"precision": str(model(torch.randn(2, 3, 5, 7)).dtype)},
    )
    config = toy_config(epochs=1, precision="bf16")
    loaders = MemoryLoader(), val_loader()
    result = fit(model, *loaders, config=config, out=tmp_path, meta={}, progress=False)
    assert result["attention_off"] == {"precision": "torch.bfloat16"}


def test_a_signal_while_they_change_places_puts_the_weights_back(monkeypatch):
    model = toy_net()
    before = [weight.clone() for weight in model.parameters()]
    average = WeightAverage(model, 0.5)
    for values in average.averages:
        values.fill_(3)
    put = average._put

    def interrupted(values):
        put(values)
        monkeypatch.setattr(average, "_put", put)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(average, "_put", interrupted)
    with pytest.raises(KeyboardInterrupt), average.in_place():
        pass
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
