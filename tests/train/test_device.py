import pytest
import torch

from attnconv.checks import InputError
from attnconv.train.device import choose_device, float32_products, make_fabric


@pytest.fixture
def machine(monkeypatch):
    def with_devices(*names):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)

    return with_devices


@pytest.mark.parametrize(
    ("present", "name", "expected"),
    [
        ((), "auto", "cpu"),
        (("mps",), "auto", "mps:0"),
        (("mps", "cuda"), "auto", "cuda:0"),
        (("cuda",), "cpu", "cpu"),
        (("cuda",), "cuda", "cuda:0"),
    ],
)
def test_the_device_chosen(machine, present, name, expected):
    machine(*present)
    assert str(choose_device(name)) == expected


def test_absent_and_unknown_devices(machine):
    machine()
    with pytest.raises(InputError, match=r"^device 'cuda' is not available here; available: cpu$"):
        choose_device("cuda")
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        choose_device("gpu")


def test_fp16_needs_cuda():
    with pytest.raises(InputError, match=r"^precision 'fp16' needs device 'cuda', this run is on 'cpu'; use 'bf16'"):
        make_fabric("cpu", "fp16")
    with pytest.raises(InputError, match=r"^precision 'tf32' needs device 'cuda', this run is on 'cpu'; use 'bf16'"):
        make_fabric("cpu", "tf32")
    with pytest.raises(InputError, match="unknown precision 'bf61'; nearest: 'bf16'"):
        make_fabric("cpu", "bf61")


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_inside_the_model(precision, expected):
    model = torch.nn.Linear(3, 2)
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    output = make_fabric("cpu", precision).setup_module(model)(torch.randn(2, 3))
    assert seen == [expected]
    assert output.dtype == torch.float32
    assert model.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("precision", "products", "convolutions"), [("fp32", "highest", False), ("tf32", "high", True)]
)
def test_float32_products_of_a_gpu_are_as_asked_and_put_back(precision, products, convolutions):
    def settings():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = settings()
    with float32_products(precision, torch.device("cuda")):
        assert settings() == (products, convolutions)
    assert settings() == before
    with float32_products(precision, torch.device("cpu")):
        assert settings() == before
