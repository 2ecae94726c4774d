"""Devices, arithmetic, and what a result says of versions."""

import subprocess

import pytest
import torch
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

import attnconv
from attnconv.checks import InputError
from attnconv.train.device import (
    ROOT,
    choose_device,
    commit,
    float32_products,
    make_fabric,
    precision_note,
    provenance,
)
from attnconv.train.fit import fit


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


@pytest.mark.parametrize(
    ("supported", "onednn", "precision", "device", "told"),
    [
        (False, True, "bf16", "cpu", True),
        (True, True, "bf16", "cpu", False),
        (False, False, "bf16", "cpu", False),
        (False, True, "fp32", "cpu", False),
        (False, True, "bf16", "cuda", False),
    ],
)
def test_a_cpu_without_bfloat16_is_told(supported, onednn, precision, device, told, monkeypatch):
    cpu_of(monkeypatch, supported, onednn)
    assert (precision_note(precision, torch.device(device)) is not None) is told


def cpu_of(monkeypatch, supported, onednn=True):
    if torch.backends.mkldnn.is_available():
        assert torch.ops.mkldnn._is_mkldnn_bf16_supported() in (True, False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)


@pytest.mark.parametrize("supported", [False, True])
def test_a_run_on_a_cpu_without_bfloat16_says_so(supported, tmp_path, monkeypatch, capsys):
    cpu_of(monkeypatch, supported)
    config = toy_config(epochs=1, precision="bf16")
    fit(toy_net(), MemoryLoader(), val_loader(), config=config, out=tmp_path, meta={})
    shown = " ".join("".join(capsys.readouterr()).split())
    assert ("this CPU has no instructions for precision bf16" in shown) is not supported


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


@pytest.fixture
def checkout(tmp_path):
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    return tmp_path


def test_the_commit_of_a_checkout(checkout):
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit(checkout) == head.stdout.strip()


def test_a_changed_checkout_is_dirty(checkout):
    git = ("git", "-C", str(checkout))
    (checkout / "file").write_text("one")
    head = commit(checkout)
    assert len(head) == 40  # what git does not follow is no change
    subprocess.run([*git, "add", "file"], check=True)
    assert commit(checkout) == f"{head}-dirty"
    subprocess.run([*git, "rm", "-q", "-f", "file"], check=True)
    subprocess.run([*git, "tag", "v1"], check=True)
    assert commit(checkout) == head


def test_a_package_inside_another_projects_checkout_has_no_commit(checkout):
    (checkout / "site-packages").mkdir()
    assert commit(checkout / "site-packages") is None


def test_outside_a_checkout_or_without_git(tmp_path, monkeypatch):
    assert commit(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path) is None


def test_versions():
    found = provenance(torch.device("cpu"))
    assert found == {
        "device": "cpu",
        "torch": torch.__version__,
        "attnconv": attnconv.__version__,
        "commit": commit(ROOT),
    }
