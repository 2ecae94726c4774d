"""fastai trains, saves and exports our networks, and builds its U-Net on them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attnconv import compat, timm
from attnconv.layers import Attention
from attnconv.models import create_model
from attnconv.train.lr_find import suggestions

pytest.importorskip("fastai", reason="make clients installs it")
from fastai.vision import all as fastai
from fastai.vision.models import xresnet

assert timm  # its import puts our names into timm's registry
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def loaders(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    torch.manual_seed(0)
    for folder in ("train/bright", "train/dark", "valid/bright", "valid/dark"):
        (path / folder).mkdir(parents=True)
        for i in range(8):
            pixels = torch.rand(32, 32, 3) * (255 if "bright" in folder else 120)
            Image.fromarray(pixels.byte().numpy()).save(path / folder / f"{i}.png")
    return fastai.ImageDataLoaders.from_folder(path, valid="valid", bs=8, num_workers=0, device="cpu")


@pytest.fixture
def quiet():
    def of(learn):
        learn.remove_cbs([fastai.ProgressCallback])
        learn.logger = fastai.noop
        return learn

    return of


@pytest.mark.parametrize("name", ["ssa_xresnet18", "aa_resnet18"])
def test_lr_find_fit_and_export(name, loaders, quiet, tmp_path):
    network = create_model(name, num_classes=2, image_size=32)
    learn = quiet(fastai.Learner(loaders, network, loss_func=fastai.CrossEntropyLossFlat(), path=tmp_path))
    assert learn.lr_find(num_it=8, show_plot=False).valley > 0
    before = network.fc.weight.clone()
    learn.fit_one_cycle(1, 1e-3)
    assert not torch.equal(network.fc.weight, before)
    learn.save("weights")
    learn.load("weights")
    learn.export("learner.pkl")
    image = loaders.path / "valid" / "dark" / "0.png"
    loaded = quiet(fastai.load_learner(tmp_path / "learner.pkl"))
    with learn.no_bar(), loaded.no_bar():
        assert torch.equal(loaded.predict(image)[2], learn.predict(image)[2])


@pytest.mark.parametrize(("name", "options"), [("ssa_xresnet18", {}), ("aa_resnet18", {"img_size": 32})])
def test_fine_tune_by_name(name, options, loaders, quiet, tmp_path):
    learn = quiet(fastai.vision_learner(loaders, name, pretrained=False, path=tmp_path, **options))
    assert learn.model[0].model.layer4
    layers = [m for m in learn.model[0].modules() if isinstance(m, Attention)]
    before = [p.clone() for layer in layers for p in layer.parameters()]
    learn.fine_tune(1)
    after = [p for layer in layers for p in layer.parameters()]
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))


def test_of_a_functions_network_fastai_keeps_what_comes_before_the_last_pooling():
    """The limit that the page names: ours pool in their forward, so the last stages go."""
    network = create_model("aa_resnet18", num_classes=2, image_size=32)
    assert not any(isinstance(m, Attention) for m in fastai.create_body(network).modules())
    assert len(fastai.create_body(network, cut=-1)) == len(list(network.children())) - 1


@pytest.mark.parametrize(("name", "attention"), [("ssa_xresnet18", False), ("aa_resnet18", True)])
def test_dynamic_unet(name, attention, tmp_path):
    body = fastai.create_body(create_model(name, num_classes=2, image_size=64), cut=-1)
    unet = fastai.DynamicUnet(body, 3, (64, 64), self_attention=attention).eval()
    x = torch.rand(2, 3, 64, 64)
    assert unet(x).shape == (2, 3, 64, 64)
    torch.save(unet, tmp_path / "unet.pt")
    assert torch.equal(torch.load(tmp_path / "unet.pt", weights_only=False)(x), unet(x))


def test_the_weights_of_its_own_xresnet_give_its_numbers_by_our_name():
    theirs = xresnet.xresnet18(n_out=2, sa=True).eval()
    for parameter in theirs.parameters():
        if parameter.numel() == 1:
            nn.init.constant_(parameter, 0.5)
    ours = compat.load_checkpoint(theirs.state_dict(), "ssa_xresnet18", num_classes=2)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_our_suggestions_of_a_learning_rate_are_fastais(seed):
    from fastai.callback import schedule

    numbers = np.random.default_rng(seed)
    x = np.linspace(0, 1, count := int(numbers.integers(20, 90)))
    lrs, fall, rise = 1e-6 * 1.2 ** np.arange(count), numbers.uniform(5, 40), numbers.uniform(0, 5)
    losses = 2.3 - 1 / (1 + np.exp(-fall * (x - 0.5))) + rise * np.maximum(0, x - 0.8) ** 2
    losses += numbers.normal(0, 0.002, count)
    theirs = {
        "valley": schedule.valley,
        "slide": schedule.slide,
        "minimum": schedule.minimum,
        "steepest": schedule.steep,
    }
    expected = {name: suggest(torch.tensor(lrs), torch.tensor(losses), count)[0] for name, suggest in theirs.items()}
    assert suggestions(lrs, losses) == pytest.approx(expected)
