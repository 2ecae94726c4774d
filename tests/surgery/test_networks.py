"""Surgery on the networks of torchvision and timm, and on a U-Net."""

import copy

import pytest
import torch
from surgery.networks import CASES, IMAGE_SIZE, tensors
from torch import nn

from attnconv import AugmentedConv2d, surgery
from attnconv.surgery import Attended

QUICK = ("mobilenet_v3_small", "unet")
NAMES = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
RATIOS = {"key_ratio": 0.25, "value_ratio": 0.25, "num_heads": 4, "min_head_dim": 2}


def augment(name, **settings):
    torch.manual_seed(0)
    case = CASES[name]
    model = case.build()
    return model, *surgery.augment(model, image_size=IMAGE_SIZE, where=case.where, **{**RATIOS, **settings})


@NAMES
def test_augment_replaces_what_the_pattern_matches_and_keeps_its_first_filters(name):
    model, augmented, changes = augment(name)
    assert {change.name: change.map_size for change in changes} == CASES[name].maps
    for change in changes:
        old, new = model.get_submodule(change.name), augmented.get_submodule(change.name)
        assert isinstance(new, AugmentedConv2d)
        assert (new.out_channels, new.in_channels, new.feat_size) == (
            old.out_channels,
            old.in_channels,
            change.map_size,
        )
        kept = old.out_channels - new.value_channels
        assert torch.equal(new.conv_out.weight, old.weight[:kept])
        assert old.bias is None or torch.equal(new.conv_out.bias, old.bias[:kept])
    others = {key for key in model.state_dict() if not key.startswith(tuple(CASES[name].maps))}
    assert all(torch.equal(model.state_dict()[key], augmented.state_dict()[key]) for key in others)


@NAMES
def test_augmented_networks_train(name):
    model, augmented, _ = augment(name)
    images = CASES[name].image()
    outputs = tensors(augmented(images))
    assert [y.shape for y in outputs] == [y.shape for y in tensors(model(images))]
    sum(y.square().mean() for y in outputs).backward()
    for key, parameter in augmented.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key
    for change in CASES[name].maps:
        assert all(p.grad is not None for p in augmented.get_submodule(change).parameters()), change


@NAMES
@pytest.mark.parametrize("size", [(49, 63), (64, 33)])
def test_augmented_networks_take_smaller_and_odd_images(name, size):
    model, augmented, _ = augment(name)
    images = CASES[name].image(*size)
    with torch.no_grad():
        outputs = tensors(augmented.eval()(images))
        expected = [y.shape for y in tensors(model.eval()(images))]
    assert [y.shape for y in outputs] == expected
    assert all(y.isfinite().all() for y in outputs)


def calibrated(name):
    """The network with batch-norm statistics of its own activations, in evaluation mode."""
    torch.manual_seed(0)
    model = CASES[name].build().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over the batches
    with torch.no_grad():
        for _ in range(3):
            model(CASES[name].image(batch=4))
    return model.eval()


@NAMES
@pytest.mark.parametrize("kind", ["simple", "sagan"])
def test_self_attention_leaves_the_outputs_unchanged(name, kind):
    model, case = calibrated(name), CASES[name]
    attended, changes = surgery.add_self_attention(model, after=list(case.after), kind=kind, image_size=IMAGE_SIZE)
    assert len(changes) == len(case.after)
    for place, channels in case.after.items():
        assert isinstance(attended.get_submodule(place), Attended)
        assert attended.get_submodule(place).attention.channels == channels
    images = case.image(57, 64)
    with torch.no_grad():
        for y, expected in zip(tensors(attended(images)), tensors(model(images)), strict=True):
            assert y.abs().max() > 1e-3
            torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


@NAMES
def test_self_attention_trains_and_acts(name):
    model, case = calibrated(name), CASES[name]
    attended, _ = surgery.add_self_attention(model, after=list(case.after), image_size=IMAGE_SIZE, normalize=True)
    images = case.image()
    before = tensors(attended(images))
    sum(y.square().mean() for y in before).backward()
    for place in case.after:
        gamma = attended.get_submodule(place).attention.gamma
        assert gamma.grad.abs() > 0, place
        nn.init.ones_(gamma)
    after = tensors(attended(images))
    assert any((y - x).abs().max() > 1e-4 for x, y in zip(before, after, strict=True))


@NAMES
def test_tables_fit_a_larger_image_size(name):
    _, augmented, changes = augment(name)
    images = CASES[name].image(96, 130, batch=1)
    augmented.eval()
    with pytest.raises(ValueError, match="resize_feat_size"):
        augmented(images)
    before = copy.deepcopy(augmented.state_dict())
    resized = surgery.resize_feat_size(augmented, (96, 130))
    assert [change.name for change in resized] == [change.name for change in changes]
    with torch.no_grad():
        assert all(y.isfinite().all() for y in tensors(augmented(images)))
    state = augmented.state_dict()
    assert all(torch.equal(state[key], before[key]) for key in state if "key_rel" not in key)
    assert all(state[key].shape != before[key].shape for key in state if key.endswith("key_rel_w"))
