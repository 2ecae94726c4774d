"""200 files with changed pickles: none runs anything, each ends in weights or in one line, and memory stays bounded."""

import random
import zipfile
from pathlib import Path

import pytest
import torch
from foreign.hostile import archive, call, text
from foreign.in_a_process import outcomes

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs /proc, for its peaks of memory"
)

BOMBS = (
    call("os.system", text("true")),
    call("builtins.eval", text("open('ran', 'w')")),
    call("builtins.exec", text("import antigravity")),
    call("subprocess.Popen", text("true")),
    call("torch._utils._rebuild_device_tensor_from_numpy", text("x")),
    call("torch.hub.load", text("a/b"), text("c")),
    b"ios\nsystem\n",
    b"(cos\nsystem\n" + text("true") + b"o",
    b"cos\nsystem\n)\x81}" + text("__setstate__") + b"cos\nsystem\nsb",
    b"\x82\x01",
    b"Pid\n",
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """``content`` with one to four changes: bytes, pieces left out or twice, instructions that would run something."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(2, len(changed))
        match rng.randrange(5):
            case 0:
                changed[at] = rng.randrange(256)
            case 1:
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                del changed[at : at + rng.randint(1, 6)]
            case 3:
                changed[at:at] = changed[at : at + rng.randint(1, 40)]
            case 4:
                changed[at:at] = rng.choice(BOMBS)
    return bytes(changed)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """100 files in either format, of a checkpoint with a module, an optimiser and other things in it."""
    folder = tmp_path_factory.mktemp("mutated")
    rng = random.Random(0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    state = {"model": model, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(state, folder / "zip.pt")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(folder / "zip.pt") as file:
        content = file.read("zip/data.pkl")
        data = {name.rpartition("/")[2]: file.read(name) for name in file.namelist() if "/data/" in name}
    whole = (folder / "legacy.pt").read_bytes()
    for number in range(100):
        archive(folder / f"zip{number}.pt", mutated(content, rng), data)
        (folder / f"legacy{number}.pt").write_bytes(mutated(whole, rng))
    return sorted(folder.glob("*[0-9].pt"))


def test_none_runs_anything(files):
    found = outcomes(files)
    assert len(found) == 200
    assert {name: line["seen"] for name, line in found.items() if line["seen"]} == {}
    said = [line["outcome"] for line in found.values()]
    assert [outcome for outcome in said if outcome.startswith("RAISED") or "\n" in outcome] == []
    assert 10 < said.count("found") < 190  # changes that do not matter, and changes that do
    assert max(line["grown"] for line in found.values()) < 30_000_000


def test_what_is_run_would_be_seen(tmp_path):
    path = archive(tmp_path / "bomb.pt", b"\x80\x02" + call("os.system", text("true")) + b".")
    assert "os.system" in outcomes([path], reader="unsafe")["bomb.pt"]["seen"]
    line = outcomes([path])["bomb.pt"]
    assert line["seen"] == []
    assert line["outcome"].endswith("bomb.pt holds no tensors by name: it holds no dict, but 'os.system'")
