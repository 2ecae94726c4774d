"""attnconv doctor: what it finds, and that nothing missing makes it fail."""

import builtins
import json
import re
import subprocess
import sys

import pytest
import torch

from attnconv import __version__
from attnconv.cli import doctor, main
from attnconv.kernels.relative_attention import native
from attnconv.ops.kernel_choice import KERNELS


def test_what_it_finds(attnconv, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "MISSING", None)
    monkeypatch.setenv("ATTNCONV_DATA", str(tmp_path / "sets"))
    code, out, err = attnconv("doctor", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["versions"]["attnconv"] == __version__
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["devices"][0]["threads"] == torch.get_num_threads()
    cpu = found["kernels"][0]
    assert (cpu["device"], cpu["auto"]) == ("cpu", "native")
    assert set(cpu["why_not"]) == set(KERNELS)
    assert cpu["why_not"]["eager"] is None
    assert cpu["why_not"]["triton"] in ("the device is cpu, not cuda", "triton is not installed")
    assert found["data"]["folder"] == str(tmp_path / "sets")
    assert (found["data"]["set_by"], found["data"]["exists"], found["data"]["writable"]) == (
        "ATTNCONV_DATA",
        False,
        True,
    )
    assert not (tmp_path / "sets").exists()


def test_the_text_says_the_same(attnconv, monkeypatch):
    why = (
        "its library was not built: no C++ compiler was found; install GCC 12 or Clang 15, or newer, and attnconv again"
    )
    monkeypatch.setattr(native, "MISSING", why)
    code, out, err = attnconv("doctor")
    assert (code, err) == (0, "")
    assert re.search(rf"attnconv +{__version__}\n", out)
    assert "blocked on cpu, float32  available, the choice of impl='auto'" in out
    assert f"native on cpu, float32   no: {why}\n" in out
    assert "triton on cpu, float32   no: " in out


METADATA = [
    "torch>=2.11",
    'pytest; extra == "train"',
    'nobody-made-this>=3; extra == "track"',
    'torch>=99; extra == "hub"',
    'attnconv[train,hub]; extra == "all"',
    'ruff; extra == "dev"',
]


def test_extras_present_missing_and_too_old(attnconv, monkeypatch):
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: METADATA)
    found, _ = doctor.extras()
    assert set(found) == {"train", "track", "hub"}
    assert found["train"]["install"] is None
    assert found["track"] == {"packages": {"nobody-made-this": None}, "install": "pip install 'attnconv[track]'"}
    assert found["hub"]["install"] == "pip install 'attnconv[hub]'"
    monkeypatch.setenv("COLUMNS", "200")
    assert "nobody-made-this missing: pip install 'attnconv[track]'" in attnconv("doctor")[1]


def test_gpus_are_listed(attnconv, monkeypatch):
    facts = type("P", (), {"name": "A card", "total_memory": 80_000_000_000, "major": 9, "minor": 0})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: facts)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    found = json.loads(attnconv("doctor", "--json")[1])
    assert [device["device"] for device in found["devices"]] == ["cpu", "cuda:0", "cuda:1", "mps"]
    assert {entry["device"] for entry in found["kernels"]} == {"cpu", "cuda"}
    assert "cuda:1  A card, 80 GB, compute capability 9.0" in attnconv("doctor")[1]


@pytest.mark.parametrize(("made", "message"), [("file", "sets is a file"), ("folder", "no right to write to")])
def test_a_data_folder_that_cannot_be_written(attnconv, tmp_path, monkeypatch, made, message):
    monkeypatch.setenv("ATTNCONV_DATA", str(tmp_path / "sets" / "deep"))
    if made == "file":
        (tmp_path / "sets").write_text("")
    else:
        monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    found, _ = doctor.data_folder()
    assert not found["writable"]
    assert message in found["why_not"]
    monkeypatch.setenv("COLUMNS", "300")
    assert message in attnconv("doctor")[1]


def test_a_torch_that_does_not_import_is_a_finding(monkeypatch, capsys):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "torch":
            raise ImportError("libcudart.so.13: cannot open shared object file\nmore")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "Devices\n  unknown  libcudart.so.13: cannot open shared object file\n" in out
    assert re.search(rf"attnconv +{__version__}\n", out)


WITHOUT = """
import sys
for name in ("cyclopts", "rich", "yaml", "lightning_fabric", "torchvision", "packaging"):
    sys.modules[name] = None
from attnconv.cli import main
codes = [main(["--version"]), main(["doctor"]), main(["doctor", "--json"]), main(["train"])]
assert codes == [0, 0, 0, 2], codes
"""


def test_it_runs_where_no_extra_is_installed():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{__version__}\nVersions\n")
    assert done.stderr == "attnconv: error: this needs cyclopts: pip install 'attnconv[train]'\n"
