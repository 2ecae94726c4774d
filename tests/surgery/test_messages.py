"""Messages of attention inside a network: which layer it is, and the call that mends the whole model."""

import copy
import pickle
import re

import pytest
import torch
from surgery.networks import UNet
from torch import nn

from attnconv import Attention, models, surgery

NARROW = {"num_heads": 2, "min_head_dim": 3}


def unet(image_size=16, **settings):
    model, _ = surgery.augment(UNet(), where=r"bottom\.0|up\.0\.0", image_size=image_size, **NARROW, **settings)
    return model


CALL = "call layer.resize_feat_size(({})) or, for the whole model, attnconv.surgery.resize_feat_size(model, {})"


@pytest.mark.parametrize(
    ("size", "map_size", "feat_size", "image_size"),
    [
        ((20, 28), "5, 7", "5, 7", (20, 28)),
        ((48, 64), "12, 16", "12, 16", (48, 64)),
        ((48, 12), "12, 3", "12, 4", (48, 16)),  # the columns stay as they are
    ],
)
@pytest.mark.parametrize("make", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_map_that_is_too_large(make, size, map_size, feat_size, image_size):
    model = make(unet())
    message = f"bottom.0 (AugmentedConv2d): the output map is ({map_size}), but the position tables cover "
    message += f"feat_size=(4, 4); {CALL.format(feat_size, image_size)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model(torch.zeros(1, 1, *size))
    surgery.resize_feat_size(model, image_size)
    model(torch.zeros(1, 1, *size))


def test_the_call_still_fits_after_the_tables_were_resized():
    model = unet()
    surgery.resize_feat_size(model, (32, 48))
    with pytest.raises(ValueError, match=r"resize_feat_size\(model, \(40, 48\)\)"):
        model(torch.zeros(1, 1, 40, 48))


@pytest.mark.parametrize(
    ("example", "call"),
    [(torch.zeros(1, 1, 16, 16), r"\(model, \(20, 16\)\)"), ((torch.zeros(1, 1, 16, 16),), r"\(model, image_size\)")],
)
def test_surgery_on_an_example(example, call):
    with pytest.raises(ValueError, match=rf"^bottom\.0 .*resize_feat_size{call}$"):
        unet(None, example=example)(torch.zeros(1, 1, 20, 16))


def test_networks_by_name():
    model = models.create_model("aa_resnet18", num_classes=2, image_size=(64, 96))
    with pytest.raises(ValueError, match=r"^layer2\.0\.conv1 \(AugmentedConv2d\): .*\(model, \(96, 128\)\)$"):
        model(torch.zeros(1, 3, 96, 128))


def test_a_factory_of_ones_own_says_nothing_of_the_stride():
    """Its tables may cover more than the images that it was made for."""

    def make(num_classes):
        return unet(32)

    model = models.create_model(make, num_classes=2, image_size=16)
    with pytest.raises(ValueError, match=r"^bottom\.0 .*resize_feat_size\(model, \(40, 32\)\)$"):
        model(torch.zeros(1, 1, 40, 16))


@pytest.mark.parametrize("kind", ["simple", "sagan"])
def test_layers_behind_a_module(kind):
    model, _ = surgery.add_self_attention(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), after="0", kind=kind, image_size=8
    )
    with pytest.raises(ValueError, match=r"the input of 0\.attention \(S\w+\) must be a floating point tensor, got No"):
        model[0].attention(None)
    model, _ = surgery.add_self_attention(nn.Sequential(model), after="0.1", kind=kind, image_size=8)
    names = {layer._path for layer in model.modules() if isinstance(layer, Attention)}
    assert names == {"0.0.attention", "0.1.attention"}
