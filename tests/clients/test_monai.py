"""MONAI's U-Nets in two and three dimensions, its sliding window, and DynUNet, whose modules have two names each."""

import pytest
import torch
from torch import nn

from attnconv import surgery
from attnconv.surgery import Attended

pytest.importorskip("monai", reason="make clients installs it")
from monai.inferers import sliding_window_inference
from monai.networks.nets import DynUNet, SegResNet, UNet

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
AXES = pytest.mark.parametrize("axes", [2, 3])
WIDTHS = {"num_heads": 2, "min_head_dim": 4}


@AXES
def test_a_unet_and_its_sliding_window(axes):
    size = (32,) * axes
    plain = UNet(axes, 1, 2, (8, 16, 32), (2, 2), num_res_units=1).eval()
    model, _ = surgery.add_self_attention(plain, after="model.1.submodule.1", image_size=size)
    volume = torch.rand(1, 1, *(40 + 8 * i for i in range(axes)))
    with torch.no_grad():
        expected = sliding_window_inference(volume, size, 2, plain, overlap=0.25)
        assert torch.equal(sliding_window_inference(volume, size, 2, model, overlap=0.25), expected)
    model, [change] = surgery.augment(model, where=r"1\.submodule\.1\..*unit0\.conv$", image_size=size, **WIDTHS)
    assert change.after == f"AugmentedConv{axes}d(d_k 8, d_v 2, 2 heads)"
    with torch.no_grad():
        y = sliding_window_inference(volume, size, 2, model, overlap=0.25)
    assert y.shape == expected.shape
    assert not torch.equal(y, expected)
    model.train()(torch.rand(2, 1, *size)).square().mean().backward()
    assert model.model[1].submodule[1].attention.gamma.grad is not None


@AXES
def test_dynunets_bottleneck_has_two_names(axes):
    size = (16,) * axes
    options = {"filters": [8, 16, 32], "deep_supervision": True, "deep_supr_num": 1}
    plain = DynUNet(axes, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], **options).eval()
    model, _ = surgery.add_self_attention(plain, after="bottleneck", image_size=size)
    others = [m.next_layer for m in model.modules() if hasattr(m, "next_layer")]
    assert isinstance(model.bottleneck, Attended)
    assert sum(other is model.bottleneck for other in others) == 1
    x = torch.rand(1, 1, *size)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
    model, _ = surgery.augment(model, where=r"^bottleneck\.conv2\.conv$", image_size=size, **WIDTHS)
    assert {key for key in model.state_dict() if key.endswith("bottleneck.attention.gamma")}
    model.train()(x).square().mean().backward()
    assert model.bottleneck.attention.gamma.grad.abs() > 0
    with torch.no_grad():
        nn.init.ones_(model.bottleneck.attention.gamma)
        assert not torch.allclose(model.eval()(x), plain(x))


def test_its_transposed_convolutions_are_refused():
    plain = UNet(3, 1, 2, (8, 16), (2,)).eval()
    with pytest.raises(ValueError, match="is a ConvTranspose3d; only Conv1d, Conv2d and Conv3d can be augmented"):
        surgery.augment(plain, where=r"model\.2\.conv", image_size=16)


def test_after_a_training_step_dynunet_is_changed_in_place():
    """With deep supervision it keeps outputs with their graph, so that it cannot be copied: MONAI's limit."""
    plain = DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], deep_supervision=True, deep_supr_num=1)
    plain(torch.rand(1, 1, 16, 16))
    with pytest.raises(ValueError, match="the model cannot be copied, pass inplace=True"):
        surgery.add_self_attention(plain, after="bottleneck", image_size=16)
    model, _ = surgery.add_self_attention(plain, after="bottleneck", image_size=16, inplace=True)
    assert model is plain


def test_segresnet():
    model, [change] = surgery.add_self_attention(SegResNet(3, 8, 1, 2).eval(), after="down_layers.3", image_size=16)
    assert change.after == "Sequential + SimpleSelfAttention(64)"
    assert model(torch.rand(1, 1, 16, 24, 16)).shape == (1, 2, 16, 24, 16)
