"""ultralytics' YOLO with attention: fused, predicting, exported, and trained without losing it."""

import pytest
import torch
from PIL import Image
from torch import nn

from attnconv import surgery
from attnconv.layers import Attention

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SIZE = 64


@pytest.fixture(autouse=True)
def ultralytics(monkeypatch, tmp_path):
    """The library, which asks nobody for anything and writes into a folder of the test."""
    for name, value in {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_CONFIG_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return pytest.importorskip("ultralytics", reason="make clients installs it")


@pytest.fixture
def yolo(ultralytics):
    return ultralytics.YOLO("yolov8n.yaml")


@pytest.fixture
def image():
    return torch.randint(0, 255, (SIZE, SIZE, 3), dtype=torch.uint8).numpy()


def attention(yolo):
    return [m for m in yolo.model.modules() if isinstance(m, Attention)]


def attended(model, gamma=1.0):
    model, _ = surgery.add_self_attention(model, after="model.9", image_size=SIZE)
    nn.init.constant_(model.model[9].attention.gamma, gamma)
    return model


def augmented(model):
    """As the page has it: a block of convolution, norm and activation that ``fuse`` does not know."""
    model, _ = surgery.augment(model, where=r"model\.8\.m\.0\.cv2\.conv", image_size=SIZE)
    block = model.model[8].m[0].cv2
    model.model[8].m[0].cv2 = nn.Sequential(block.conv, block.bn, block.act)
    return model


@pytest.mark.parametrize("operate", [attended, augmented])
def test_fuse_predict_and_export(operate, yolo, image, ultralytics):
    yolo.model = operate(yolo.model).eval()
    x = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = yolo.model(x)[0]
        torch.testing.assert_close(yolo.model.fuse(verbose=False)(x)[0], expected, rtol=1e-3, atol=1e-3)
    assert len(attention(yolo)) == 1
    assert len(yolo.predict(image, imgsz=SIZE, verbose=False)) == 1
    for file in (yolo.export(format="torchscript", imgsz=SIZE), yolo.export(format="onnx", imgsz=SIZE, simplify=False)):
        assert len(ultralytics.YOLO(file, task="detect").predict(image, imgsz=SIZE, verbose=False)) == 1
    torch.testing.assert_close(torch.jit.load("yolov8n.torchscript")(x), expected, rtol=1e-3, atol=1e-3)


def test_fuse_of_a_block_with_an_augmented_convolution_says_what_stops_it(yolo):
    model, _ = surgery.augment(yolo.model, where=r"model\.8\.m\.0\.cv2\.conv", image_size=SIZE)
    with pytest.raises(AttributeError, match=r"model\.8\.m\.0\.cv2\.conv .* Exclude the layer where"):
        model.fuse(verbose=False)


@pytest.fixture
def settings(tmp_path):
    for part in ("train", "val"):
        (tmp_path / "images" / part).mkdir(parents=True)
        (tmp_path / "labels" / part).mkdir(parents=True)
        for i in range(4):
            pixels = torch.randint(0, 255, (SIZE, SIZE, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / "images" / part / f"{i}.png")
            (tmp_path / "labels" / part / f"{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    file = tmp_path / "data.yaml"
    file.write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: {{0: thing}}\n")
    quiet = {"plots": False, "verbose": False, "workers": 0, "amp": False, "device": "cpu"}
    return {"data": str(file), "epochs": 1, "imgsz": SIZE, "batch": 2, "project": str(tmp_path / "runs"), **quiet}


def test_train_builds_the_network_anew_and_loses_attention(yolo, settings):
    """The limit that the page names: ``YOLO.train`` makes the network from its YAML."""
    yolo.model = attended(yolo.model)
    yolo.train(**settings)
    assert attention(yolo) == []


def test_a_trainer_that_puts_it_in_keeps_it(yolo, settings, image, ultralytics):
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Trainer(DetectionTrainer):
        def get_model(self, cfg=None, weights=None, verbose=True):
            return attended(super().get_model(cfg, weights, verbose), gamma=0.0)

    yolo.train(trainer=Trainer, **settings)
    best = ultralytics.YOLO(yolo.trainer.best)
    [layer] = attention(best)
    assert layer.gamma != 0
    assert len(best.predict(image, imgsz=SIZE, verbose=False)) == 1
