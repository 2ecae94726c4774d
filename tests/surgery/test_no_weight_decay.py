"""Parameters that must not shrink, after surgery: one list for this library's trainer and for timm's optimisers."""

import pytest
import torch
from torch import nn

from attnconv import surgery
from attnconv.models import create_model
from attnconv.train.optim import decay_groups

TABLES = {"1.key_rel_h", "1.key_rel_w"}


def operated():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LayerNorm([8, 6, 6]))
    model, _ = surgery.augment(
        model, image_size=8, where="1", key_ratio=0.5, value_ratio=0.5, num_heads=2, min_head_dim=2
    )
    return surgery.add_self_attention(model, after="2", image_size=8)[0]


def test_norms_biases_gammas_and_tables():
    model = operated()
    names = surgery.no_weight_decay(model)
    assert names > TABLES | {"2.attention.gamma", "3.weight", "3.bias", "2.inner.weight", "0.bias"}
    decayed = {name for name, _ in model.named_parameters()} - names
    assert all(name.endswith(("weight", "original")) for name in decayed)
    assert "2.attention.conv.parametrizations.weight.original" in decayed


class Positioned(nn.Module):
    """A network that names a parameter of its own, as timm's do."""

    def __init__(self):
        super().__init__()
        self.body = operated()
        self.pos_embed = nn.Parameter(torch.zeros(1, 8, 6, 6))
        self.scale_map = nn.Parameter(torch.zeros(8, 6))

    def no_weight_decay(self):
        return {"pos_embed", "scale_*"}


def ours():
    return create_model("aa_convnet3", num_classes=3, image_size=32)


def test_a_model_whose_answer_is_ours():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.scale_map = operated(), nn.Parameter(torch.zeros(8, 6))

        def no_weight_decay(self):
            return surgery.no_weight_decay(self) | {"scale_map"}

    model = Network()
    assert surgery.no_weight_decay(model) == model.no_weight_decay() > {"scale_map", "body.2.attention.gamma"}


@pytest.mark.parametrize("make", [operated, Positioned, ours])
def test_timms_groups_and_the_trainers_are_the_same(make):
    optim = pytest.importorskip("timm.optim")
    model = make()
    names = {parameter: name for name, parameter in model.named_parameters()}
    timms = optim.param_groups_weight_decay(model, 0.1, no_weight_decay_list=surgery.no_weight_decay(model))
    found = [
        {group["weight_decay"]: {names[p] for p in group["params"]} for group in groups}
        for groups in (timms, decay_groups(model, 0.1))
    ]
    assert found[0] == found[1]
    assert {"pos_embed", "scale_map"} & set(names.values()) <= found[0][0.0]


def test_a_network_of_ours_gives_timm_the_list():
    model = ours()
    assert model.no_weight_decay() == surgery.no_weight_decay(model) > {"layer3.0.key_rel_h"}
