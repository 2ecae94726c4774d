"""A run's words on its attention: numbers a reader can recompute from its checkpoints, and scores without it."""

import csv
import json
import threading

import pytest
import torch
from torch import nn
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv import AugmentedConv2d, SelfAttention, SimpleSelfAttention
from attnconv.explain import attention_maps
from attnconv.layers.activity import attention_activity, attention_off
from attnconv.recipes import RunConfig, load_trained, run
from attnconv.recipes.training import images_of, loaders_of
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.evaluate import scores_without_attention
from attnconv.train.fit import fit


def small_run(out, **options):
    config = RunConfig(**{"model": "aa_convnet3", "train_subset": 96, "epochs": 2, "batch_size": 32, **options})
    return config, run(config, out, progress=False)


def rows_of(out):
    return list(csv.DictReader((out / "metrics.csv").open()))


def validation(config):
    _, loader = loaders_of(config, images_of(config), torch.device("cpu"))
    return [(images, labels) for images, labels in loader.epoch(0)]


def network(layer, classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), layer, nn.Flatten(), nn.Linear(8 * 5 * 6, classes)).eval()


def test_the_share_of_an_augmented_convolution_is_that_of_its_output(tmp_path):
    config, _ = small_run(tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    columns = [name for name in rows[0] if name.startswith("attention_share ")]
    assert columns == ["attention_share layer2.0", "attention_share layer3.0"]
    last = load_trained(tmp_path / "run", checkpoint="last", device="cpu").model
    images = validation(config)[0][0][:64]
    with torch.no_grad():
        y = last.layer2[0](last.layer1(images)).double()  # (B, 128, H, W)
    spread = torch.stack([channel.var(correction=0) for channel in y.unbind(1)])
    assert float(rows[-1][columns[0]]) == pytest.approx((spread[96:].sum() / spread.sum()).item(), rel=1e-4)
    assert rows[0][columns[0]] != rows[1][columns[0]]


def test_gamma_is_the_checkpoints(tmp_path):
    options = {"model": "ssa_xresnet18", "train_subset": 32, "batch_size": 16, "lr": 0.05, "epochs": 1}
    small_run(tmp_path / "run", **options)
    gamma = load_trained(tmp_path / "run", checkpoint="last", device="cpu").model.layer1[1].attention.gamma.item()
    assert float(rows_of(tmp_path / "run")[0]["gamma layer1.1.attention"]) == gamma


def test_the_scores_without_attention_are_those_of_the_best_network_with_its_channels_zeroed(tmp_path):
    config, result = small_run(tmp_path / "run", epochs=3)
    model = load_trained(tmp_path / "run", checkpoint="best", device="cpu").model
    batches = validation(config)
    hits = changed = count = 0
    moved = norm = 0.0
    with torch.no_grad():
        whole = [model(images).double() for images, _ in batches]
        for conv in (model.layer2[0], model.layer3[0]):  # zeros from the last projection are zeros of the channels
            conv.attn_out.weight.zero_()
        for (images, labels), before in zip(batches, whole, strict=True):
            after = model(images).double()
            hits += (after.argmax(1) == labels).sum().item()
            changed += (after.argmax(1) != before.argmax(1)).sum().item()
            count += len(labels)
            moved, norm = moved + (after - before).square().sum().item(), norm + before.square().sum().item()
    found = result["attention_off"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["attention_off"] == found
    assert found["top1"] == pytest.approx(100 * hits / count)
    assert found["predictions_changed"] == pytest.approx(100 * changed / count)
    assert found["logits_moved"] == pytest.approx((moved / norm) ** 0.5, rel=1e-4)
    assert found["logits_moved"] > 1e-3


def test_a_plain_network_has_no_such_numbers(tmp_path):
    _, result = small_run(tmp_path / "run", model="convnet3", epochs=1)
    assert "attention_off" not in result
    assert not [name for name in rows_of(tmp_path / "run")[0] if " " in name]


@pytest.mark.parametrize("kind", [SelfAttention, SimpleSelfAttention])
def test_off_is_gamma_0(kind):
    model, x = network(kind(8)), torch.randn(4, 3, 5, 6)
    model[1].gamma.data.fill_(2.0)
    with attention_off(model):
        off = model(x)
    on = model(x)
    model[1].gamma.data.zero_()
    assert torch.equal(off, model(x))
    assert not torch.equal(off, on)


class Awkward(nn.Module):
    """It names the argument of its attention, keeps a map of the last step, and cannot be copied."""

    def __init__(self):
        super().__init__()
        self.stem, self.attention, self.head = nn.Conv2d(3, 8, 1), SelfAttention(8), nn.Linear(8, 3)
        self.lock, self.kept = threading.Lock(), None

    def forward(self, x):
        y = self.attention(mask=None, x=self.stem(x))
        if self.training:
            self.kept = y
        return self.head(y.mean((2, 3)))


def test_any_network_is_measured_and_explained(tmp_path):
    torch.manual_seed(0)
    model = Awkward()
    loaders = MemoryLoader(), val_loader()
    result = fit(model, *loaders, config=toy_config(lr=0.3), out=tmp_path / "run", meta={}, progress=False)
    assert result["attention_off"]["logits_moved"] > 0
    last = load_checkpoint(tmp_path / "run" / "last.pt")["model"]
    assert all(torch.equal(tensor, last[name]) for name, tensor in model.state_dict().items())
    assert len(attention_maps(model, torch.randn(3, 5, 7), (2, 2))) == 1


class WithExtraState(Awkward):
    def get_extra_state(self):
        return {"calls": 1}

    def set_extra_state(self, state):
        pass


def test_a_network_whose_checkpoint_cannot_be_read_back_keeps_its_result(tmp_path, capsys):
    loaders = MemoryLoader(), val_loader()
    result = fit(WithExtraState(), *loaders, config=toy_config(epochs=1), out=tmp_path / "run", meta={})
    assert "attention_off" not in result
    assert json.loads((tmp_path / "run" / "result.json").read_text())["top1"] == result["top1"]
    assert "the best network is not looked at" in " ".join(capsys.readouterr().err.split())


def test_an_augmented_convolution_that_is_all_attention_gives_zeros():
    layer = AugmentedConv2d(8, 8, 3, padding=1, key_channels=4, value_channels=8, num_heads=2, feat_size=(5, 6))
    model = network(layer)
    seen = []
    layer.register_forward_hook(lambda layer, inputs, y: seen.append(y))
    with attention_off(model):
        model(torch.randn(2, 3, 5, 6))
    assert seen[0].abs().min() > 0
    with attention_off(model):
        assert torch.equal(model[:2](torch.randn(2, 3, 5, 6)), torch.zeros(2, 8, 5, 6))


def test_attention_that_does_nothing_moves_nothing():
    model = nn.Sequential(SimpleSelfAttention(3), toy_net())  # gamma is 0
    scores = scores_without_attention(model, val_loader())
    assert (scores["logits_moved"], scores["predictions_changed"]) == (0.0, 0.0)


def test_the_hooks_are_gone_afterwards():
    model, x = network(SelfAttention(8)), torch.randn(2, 3, 5, 6)
    assert attention_activity(model, x) == {"gamma 1": 0.0}
    with attention_off(model):
        model(x)
    assert not model[1]._forward_hooks


def test_a_run_whose_best_network_is_gone_comes_to_its_result(tmp_path, capsys):
    config, whole = small_run(tmp_path / "run")
    for name in ("result.json", "best.pt"):
        (tmp_path / "run" / name).unlink()
    result = run(config, tmp_path / "run", resume=True)
    assert result["top1"] == whole["top1"]
    assert "attention_off" not in result
    assert "the best network is not looked at: no checkpoint at" in " ".join(capsys.readouterr().err.split())
    assert json.loads((tmp_path / "run" / "result.json").read_text())["best_top1"] == whole["best_top1"]
