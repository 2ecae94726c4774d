"""Lightning trains a module around our networks, on two processes too, and writes its files."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from attnconv.models import create_model

lightning = pytest.importorskip("lightning", reason="make clients installs it")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
NAMES = pytest.mark.parametrize("name", ["aa_resnet18", "ssa_xresnet18"])


class Classifier(lightning.LightningModule):
    def __init__(self, name):
        super().__init__()
        self.save_hyperparameters()
        self.network = create_model(name, num_classes=2, image_size=32)

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, _):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def trainer(path, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=path, **quiet, **options)


@pytest.fixture
def loader():
    return DataLoader(TensorDataset(torch.rand(8, 3, 32, 32), torch.arange(8) % 2), batch_size=4)


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32)


@NAMES
@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
def test_a_checkpoint_holds_what_was_trained(name, options, loader, images, tmp_path):
    module = Classifier(name)
    before = module.network.fc.weight.clone()
    fitted = trainer(tmp_path, **options)
    fitted.fit(module, loader)
    assert not torch.equal(module.network.fc.weight, before)
    fitted.save_checkpoint(tmp_path / "a.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "a.ckpt").eval()
    assert torch.equal(loaded(images), module.eval()(images))


@NAMES
def test_two_spawned_processes(name, loader, tmp_path):
    module = Classifier(name)
    before = module.network.fc.weight.clone()
    trainer(tmp_path, devices=2, strategy="ddp_spawn").fit(module, loader)
    assert not torch.equal(module.network.fc.weight, before)


@NAMES
def test_torchscript_by_tracing(name, images, tmp_path):
    module = Classifier(name).eval()
    module.to_torchscript(tmp_path / "m.pt", method="trace", example_inputs=images)
    torch.testing.assert_close(torch.jit.load(tmp_path / "m.pt")(images), module(images), rtol=1e-4, atol=1e-5)


def test_torchscript_by_scripting_is_not_to_be_had(images):
    with pytest.raises(Exception, match="attnconv/layers"):
        Classifier("aa_resnet18").to_torchscript(method="script")


@NAMES
@pytest.mark.parametrize("options", [{}, {"dynamo": True}, {"dynamo": False}])
def test_onnx(name, options, images, tmp_path):
    import onnxruntime

    module = Classifier(name).eval()
    module.to_onnx(tmp_path / "m.onnx", images, **options)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    [output] = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(output, module(images).detach().numpy(), rtol=1e-3, atol=1e-4)
