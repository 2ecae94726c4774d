import signal

import pytest
import torch
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.train.average import WeightAverage
from attnconv.train.checkpoint import load_checkpoint, load_weights
from attnconv.train.evaluate import evaluate
from attnconv.train.fit import fit


def test_the_average_follows_the_weights():
    model = torch.nn.Linear(1, 1, bias=False)
    values, expected = [2.0, 5.0, -1.0], 2.0
    model.weight.data.fill_(values[0])
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
    assert losses[True] == result["loss"] != losses[False]
    assert torch.equal(state["model"]["head.weight"], model.head.weight)  # the model itself keeps the trained ones


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
