"""segmentation_models_pytorch: attention put into its networks, and ours as its encoders."""

import pytest
import torch
from torch import nn

from attnconv import surgery, timm
from attnconv.layers import Attention

smp = pytest.importorskip("segmentation_models_pytorch", reason="make clients installs it")
assert timm  # its import puts our names into timm's registry
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SIZE = (64, 96)


@pytest.fixture
def images():
    return torch.rand(2, 3, *SIZE)


def plain(kind):
    return getattr(smp, kind)("resnet18", encoder_weights=None, classes=2).eval()


@pytest.mark.parametrize("kind", ["Unet", "UnetPlusPlus", "FPN", "Linknet", "MAnet", "DeepLabV3Plus"])
def test_attention_in_the_encoder(kind, images):
    model = plain(kind)
    attended, _ = surgery.add_self_attention(model, after="encoder.layer4", image_size=SIZE)
    assert torch.equal(attended(images), model(images))
    augmented, changes = surgery.augment(attended, where=r"^encoder\.layer4\..*conv2$", image_size=SIZE)
    assert [change.name for change in changes] == ["encoder.layer4.0.conv2", "encoder.layer4.1.conv2"]
    augmented.train()(images).square().mean().backward()
    grads = [p.grad for m in augmented.modules() if isinstance(m, Attention) for p in m.parameters()]
    assert sum(grad is not None and bool(grad.abs().max() > 0) for grad in grads) >= 10
    assert augmented.eval()(images[..., :64]).shape == (2, 2, 64, 64)


def test_attention_in_the_decoder(images):
    model, [change] = surgery.add_self_attention(plain("Unet"), after="decoder.blocks.1", image_size=SIZE)
    assert (change.map_size, model.decoder.blocks[1].attention.channels) == ((8, 12), 128)
    nn.init.ones_(model.decoder.blocks[1].attention.gamma)
    assert model(images).isfinite().all()


def test_the_encoders_last_stage_of_pspnet_does_not_run():
    with pytest.raises(ValueError, match=r"encoder\.layer4 does not run in the model's forward"):
        surgery.add_self_attention(plain("PSPNet"), after="encoder.layer4", image_size=SIZE)


@pytest.mark.parametrize(("encoder", "options"), [("tu-aa_resnet18", {"img_size": SIZE}), ("tu-ssa_xresnet18", {})])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("Unet", {}),
        ("FPN", {}),
        ("DeepLabV3Plus", {"encoder_output_stride": 8}),
        ("PAN", {"encoder_output_stride": 16}),
    ],
)
def test_our_networks_as_encoders(kind, more, encoder, options):
    size = (128, 160) if kind == "PAN" else SIZE
    options = dict.fromkeys(options, size)
    model = getattr(smp, kind)(encoder, encoder_weights=None, classes=2, **more, **options)
    y = model(torch.rand(2, 3, *size))
    assert y.shape == (2, 2, *size)
    y.square().mean().backward()
    assert any(isinstance(m, Attention) for m in model.encoder.modules())


def test_a_saved_model_is_read_back(images, tmp_path):
    model = smp.Unet("tu-ssa_xresnet18", encoder_weights=None, classes=2).eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(smp.from_pretrained(tmp_path).eval()(images), model(images))
