"""Networks after surgery under torch.compile, torch.export and autocast."""

import copy

import pytest
import torch
import torchvision
from surgery.networks import UNet
from torch import nn
from torch.export import Dim

from attnconv import surgery


def operated(name):
    torch.manual_seed(0)
    if name == "unet":
        model, image_size, channels = UNet(), 16, 1
        where, after = r"bottom\.0", ["bottom", "join.1", "head"]
    else:
        model, image_size, channels = torchvision.models.resnet18(num_classes=5), 32, 3
        where, after = r"layer4\.0\.conv[12]", ["layer1.1.bn2", "layer2"]
    model, _ = surgery.augment(
        model, image_size=image_size, where=where, key_ratio=0.1, value_ratio=0.1, num_heads=2, min_head_dim=2
    )
    model, _ = surgery.add_self_attention(model, after=after, image_size=image_size, normalize=True)
    for module in model.modules():
        if isinstance(module, surgery.Attended):
            nn.init.constant_(module.attention.gamma, 0.5)
    return model, torch.randn(2, channels, image_size, image_size - 4)


@pytest.fixture(autouse=True)
def forget_compiled_code():
    """torch.compile gives up on a function after eight variants, and networks share their layers'."""
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["unet", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_compile_in_one_graph_forward_and_backward(name):
    model, x = operated(name)
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for side in (compiled, plain):
        side(x).square().mean().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", [pytest.param("train", marks=pytest.mark.slow), "eval"])
def test_export(mode):
    model, x = operated("unet")
    getattr(model, mode)()
    program = torch.export.export(copy.deepcopy(model), (x,))
    assert set(program.state_dict) == set(model.state_dict())
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


def test_export_with_a_dynamic_batch():
    model, x = operated("resnet18")
    model.eval()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: Dim("batch", max=64)},)).module()
    other = torch.randn(5, *x.shape[1:])
    torch.testing.assert_close(program(other), model(other), rtol=1e-4, atol=1e-5)


def test_autocast():
    model, x = operated("unet")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    y.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_surgery_on_a_compiled_model():
    model = torch.compile(UNet(), backend="eager")
    model(torch.randn(1, 1, 16, 16))
    augmented, changes = surgery.augment(
        model, image_size=16, where=r"bottom\.0", key_ratio=0.1, value_ratio=0.1, num_heads=1, min_head_dim=2
    )
    assert len(changes) == 1
    assert augmented(torch.randn(1, 1, 16, 16)).shape == (1, 3, 16, 16)
