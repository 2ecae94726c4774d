"""Transformers' Trainer, its two wrappers of timm, DETR, accelerate, and peft's LoRA within them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import attnconv
from attnconv import timm
from attnconv.layers import Attention
from attnconv.models import create_model

transformers = pytest.importorskip("transformers", reason="make clients installs it")
accelerate = pytest.importorskip("accelerate", reason="make clients installs it")
peft = pytest.importorskip("peft", reason="make clients installs it")
assert timm  # its import puts our names into timm's registry
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
NAMES = pytest.mark.parametrize("name", ["aa_resnet18", "ssa_xresnet18"])
IMAGES = [{"pixel_values": torch.rand(3, 32, 32), "labels": i % 2} for i in range(8)]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def wrapped(name):
    config = transformers.TimmWrapperConfig(architecture=name, num_labels=2, model_args={"img_size": 32})
    model = transformers.TimmWrapperForImageClassification(config)
    for module in model.modules():
        if isinstance(gamma := getattr(module, "gamma", None), nn.Parameter):
            nn.init.constant_(gamma, 0.3)
    return model


def train(model, path, resume=False, **options):
    settings = transformers.TrainingArguments(
        path, max_steps=2, per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True, **options
    )
    trainer = transformers.Trainer(model, settings, train_dataset=IMAGES, eval_dataset=IMAGES)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@NAMES
def test_the_wrapper_trains_and_is_saved(name, tmp_path):
    model = wrapped(name)
    before = {key: value.clone() for key, value in model.named_parameters()}
    train(model, tmp_path)
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    attention = {f"timm_model.{n}" for n, m in model.timm_model.named_modules() if isinstance(m, Attention)}
    assert attention
    assert all(any(key.startswith(f"{layer}.") for key in moved) for layer in attention)
    model.save_pretrained(tmp_path / "saved")
    loaded = transformers.TimmWrapperForImageClassification.from_pretrained(tmp_path / "saved")
    state, expected = loaded.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    other = {key for key in state if not torch.equal(state[key], expected[key])}
    # from_pretrained reads each weight, which under spectral norm, in training mode, advances its two vectors.
    assert {key.rpartition(".")[2] for key in other} == ({"_u", "_v"} if name == "ssa_xresnet18" else set())
    loaded.load_state_dict(expected)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(x).logits, model.eval()(x).logits)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = create_model("ssa_xresnet18", num_classes=2, image_size=32)

    def forward(self, pixel_values, labels):
        logits = self.network(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("options", [{}, {"bf16": True}])
def test_trainer_on_a_module_of_ones_own_stops_and_goes_on(options, tmp_path):
    train(Own(), tmp_path, save_strategy="steps", save_steps=1, **options)
    trainer = train(Own(), tmp_path, resume=str(tmp_path / "checkpoint-1"), **options)
    assert trainer.state.global_step == 2
    assert trainer.evaluate()["eval_loss"] > 0


@pytest.mark.parametrize(
    ("name", "targets"), [("aa_resnet18", r".*\.(qkv_conv|attn_out)"), ("ssa_xresnet18", r".*\.attention\.conv")]
)
def test_lora_trains_in_the_wrapper(name, targets, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=targets, modules_to_save=["fc"])
    model = peft.get_peft_model(wrapped(name), config)
    train(model, tmp_path)
    adapters = {key: p for key, p in model.named_parameters() if "lora_B" in key}
    assert adapters
    assert all(p.abs().max() > 0 for p in adapters.values())  # they start at 0
    model.save_pretrained(tmp_path / "adapters")
    again = peft.PeftModel.from_pretrained(wrapped(name), tmp_path / "adapters").state_dict()
    assert all(torch.equal(again[key], value) for key, value in adapters.items())


@NAMES
def test_the_backbone_gives_four_maps(name):
    config = transformers.TimmBackboneConfig(backbone=name, use_pretrained_backbone=False, out_indices=(0, 1, 2, 3))
    backbone = transformers.TimmBackbone(config)
    shapes = [tuple(y.shape) for y in backbone(torch.rand(1, 3, 64, 96)).feature_maps]
    assert shapes == [(1, c, 64 // r, 96 // r) for c, r in zip((64, 128, 256, 512), (4, 8, 16, 32), strict=True)]


def test_detr_does_not_see_the_padding_of_its_images():
    """Its own mask keeps padding out of its encoder, `attnconv.valid_sizes` out of the attention in its backbone."""
    config = transformers.DetrConfig(
        backbone_config=transformers.TimmBackboneConfig(
            backbone="ssa_xresnet18", use_pretrained_backbone=False, out_indices=[0, 1, 2, 3]
        ),
        use_timm_backbone=False,
        backbone=None,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        num_queries=5,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
    )
    model = transformers.DetrForObjectDetection(config).eval()
    [layer] = [m for m in model.modules() if isinstance(m, Attention)]
    seen = []
    layer.register_forward_hook(lambda module, inputs, y: seen.append(module.input_mask(inputs[0], None)))
    images, mask = torch.rand(2, 3, 64, 64), torch.ones(2, 64, 64, dtype=torch.long)
    mask[1, :, 40:] = 0
    with attnconv.valid_sizes([(64, 64), (64, 40)]):
        assert model(images, pixel_mask=mask).logits.shape[:2] == (2, 5)
    assert seen[0][1].any(0).tolist() == [True] * 10 + [False] * 6


@NAMES
def test_accelerate(name, tmp_path):
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    network = create_model(name, num_classes=2, image_size=32)
    model, optimiser = accelerator.prepare(network, torch.optim.SGD(network.parameters(), 0.1))
    for _ in range(4):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.rand(4, 3, 32, 32)).square().mean())
            optimiser.step()
            optimiser.zero_grad()
    saved = {key: value.clone() for key, value in network.state_dict().items()}
    accelerator.save_state(tmp_path)
    nn.init.zeros_(network.fc.weight)
    accelerator.load_state(tmp_path)
    state = accelerator.unwrap_model(model).state_dict()
    assert all(torch.equal(state[key], value) for key, value in saved.items())
