import errno
import os
import pickle
import resource

import pytest
import torch
from train.toy import toy_config, toy_net

from attnconv.checks import InputError
from attnconv.train.checkpoint import KEYS, load_checkpoint, load_weights, save_checkpoint


def state_of(model, **changes):
    state = dict.fromkeys(KEYS - {"format"})
    config = toy_config(model="toy").to_dict()
    return {**state, "model": model.state_dict(), "config": config, "meta": {}, **changes}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, state_of(toy_net(), epoch=3))
    return path


def test_what_is_saved_is_loaded(path):
    state = load_checkpoint(path)
    assert state["format"] == 2
    assert state["epoch"] == 3
    model = toy_net(seed=1)
    load_weights(model, state, path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), toy_net().parameters(), strict=True))


def test_a_long_text_is_loaded(path):
    meta = {"notes": "x" * 70_000}
    save_checkpoint(path, state_of(toy_net(), meta=meta))
    assert load_checkpoint(path)["meta"] == meta


def fail(*args):
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_checkpoint(path, monkeypatch, call):
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(InputError, match=r"^cannot write .*last.pt: Input/output error$"):
        save_checkpoint(path, state_of(toy_net(), epoch=4))
    assert load_checkpoint(path)["epoch"] == 3
    assert os.listdir(path.parent) == ["last.pt"]


def test_a_disk_that_fills_up_leaves_the_old_checkpoint(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match=r"^cannot write .*last.pt \(is the disk full\?\): [^\n]+$"):
            save_checkpoint(path, state_of(toy_net(), epoch=4, meta={"large": torch.zeros(1_000_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path)["epoch"] == 3
    assert os.listdir(path.parent) == ["last.pt"]


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"^no checkpoint at .*none.pt$"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("part", [0, 1e-4, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.9999])
def test_a_checkpoint_cut_short(path, part):
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=r"^\S*last.pt is cut short or damaged(:|, or no file of torch.save:) [^\n]+$"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"epoch,step\n1,2\n", b"\x80\x02}q\x00.", b"PK\x05\x06" + bytes(18)])
def test_a_file_of_another_kind(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^\S*last.pt [^\n]+$"):
        load_checkpoint(path)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(tmp_path)


class Bomb:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("dump", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_no_code_of_a_file_is_run(tmp_path, dump):
    path, target = tmp_path / "last.pt", tmp_path / "ran"
    dump({"format": 1, **state_of(toy_net()), "meta": Bomb(target)}, path)
    with pytest.raises(InputError, match=r"^\S*last.pt [^\n]+$"):
        load_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False) if dump is torch.save else pickle.loads(path.read_bytes())
    assert target.exists()  # the bomb was a live one


def test_objects_are_refused_by_name(tmp_path):
    torch.save({"format": 1, "meta": Bomb(tmp_path / "ran")}, tmp_path / "last.pt")
    with pytest.raises(
        InputError,
        match=r"last.pt holds something other than tensors and plain values: 'posix\.mkdir'; `attnconv import` reads",
    ):
        load_checkpoint(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"model": {}},
            r"last.pt is not a checkpoint of attnconv: it has no 'format'; `attnconv import` reads checkpoints of o",
        ),
        (
            [1, 2],
            r"last.pt is not a checkpoint of attnconv: it has no 'format'; `attnconv import` reads checkpoints of o",
        ),
        ({"format": 1}, r"last.pt is a checkpoint of format 1, this version reads 2$"),
        ({"format": 2, "model": {}}, r"last.pt is not a whole checkpoint: it has no 'average'$"),
    ],
)
def test_other_peoples_files(path, content, message):
    torch.save(content, path)
    with pytest.raises(InputError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-1], lambda data: data[:-80], lambda data: data.replace(b"sha", b"SHA")]
)
def test_a_lost_checksum(path, harm):
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(InputError, match=r"last.pt is cut short or damaged: it has lost its checksum$"):
        load_checkpoint(path)


@pytest.mark.parametrize("part", [0.0, 0.003, 0.3, 0.5, 0.7, 0.97, 0.99, 0.999, 1.0])
def test_a_flipped_bit(path, part):
    data = bytearray(path.read_bytes())
    data[int(part * (len(data) - 1))] ^= 4
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"^\S*last.pt [^\n]+$"):
        load_checkpoint(path)


def test_a_flipped_bit_of_a_weight_is_what_the_checksum_finds(path):
    weights = load_checkpoint(path)["model"]["conv.weight"].numpy().tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(weights) + 5] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)  # which does not see it
    with pytest.raises(
        InputError, match=r"last.pt is damaged or was changed: its contents do not have the checksum that was saved w"
    ):
        load_checkpoint(path)


def test_the_checkpoint_before_is_kept(path):
    previous = path.with_name("previous.pt")
    for epoch in (4, 5):
        save_checkpoint(path, state_of(toy_net(), epoch=epoch), previous=previous)
        assert load_checkpoint(path)["epoch"] == epoch
        assert load_checkpoint(previous)["epoch"] == epoch - 1
    assert sorted(os.listdir(path.parent)) == ["last.pt", "previous.pt"]


@pytest.mark.parametrize(
    ("saved", "wanted", "message"),
    [
        (toy_net, lambda: toy_net(classes=5), r"'head.weight' is \(3, 4\) in it and \(5, 4\) in the network$"),
        (toy_net, lambda: torch.nn.Linear(2, 3), r"missing key 'weight'$"),
        (lambda: torch.nn.Linear(2, 3), lambda: torch.nn.Linear(2, 3, bias=False), "unexpected key 'bias'$"),
    ],
)
def test_weights_of_another_network(path, saved, wanted, message):
    save_checkpoint(path, state_of(saved()))
    model = wanted()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=r"^\S*last.pt is a checkpoint of 'toy': " + message):
        load_weights(model, load_checkpoint(path), path)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
