"""The small U-Net: shapes, how far it sees, and what attention at its bottleneck changes."""

import pytest
import torch
from torch import nn

from attnconv import AugmentedConv2d
from attnconv.models import create_model, list_models

NAMES = ["aa_unet", "unet"]


def make(name, **settings):
    torch.manual_seed(0)
    return create_model(name, **{"num_classes": 3, "in_channels": 1, "image_size": 32, **settings})


def test_they_are_listed_apart():
    assert list_models(dense=True) == NAMES
    assert list_models("aa*", dense=True) == ["aa_unet"]
    assert not set(list_models()) & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(27, 18), (33, 26), (4, 7)], ids=str)
def test_a_logit_map_of_any_size(name, size):
    model = make(name, in_channels=2, num_classes=5, image_size=(33, 26))
    y = model(torch.randn(2, 2, *size))
    assert y.shape == (2, 5, *size)
    y.square().mean().backward()
    grads = [p.grad for p in model.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", NAMES)
def test_it_exports(name):
    model = make(name, image_size=(20, 13)).eval()
    x = torch.randn(2, 1, 20, 13)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


def test_the_bottleneck_alone_is_augmented():
    augmented = {name for name, layer in make("aa_unet").named_modules() if isinstance(layer, AugmentedConv2d)}
    assert augmented == {"bottleneck.0"}
    plain, attentive = (sum(p.numel() for p in make(name).parameters()) for name in ("unet", "aa_unet"))
    assert abs(attentive / plain - 1) < 0.1


def distances_seen(model, size=48):
    """The largest distance, in rows or columns, at which a pixel's logits depend on the image, over pixels inside."""
    model.eval()
    for module in model.modules():  # what hides a path at some inputs
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Identity())
    far = 0
    for row in range(20, 28):
        column = 47 - row
        x = torch.randn(8, 1, size, size, requires_grad=True)
        model(x)[:, :, row, column].sum().backward()
        _, _, rows, columns = torch.nonzero(x.grad, as_tuple=True)
        far = max(far, (rows - row).abs().max().item(), (columns - column).abs().max().item())
    return far


def test_the_plain_one_sees_13_pixels_far_and_the_other_everything():
    assert distances_seen(make("unet")) == 13
    assert distances_seen(make("aa_unet", image_size=48)) == 27  # to the border


def test_images_that_are_too_small():
    with pytest.raises(ValueError, match=r"images of at least 4 x 4 pixels, got \(3, 8\)"):
        make("unet")(torch.randn(1, 1, 3, 8))
