"""Files as trainers write them, each by the library or in a form that it is known for: their weights come out."""

import argparse
import collections
import copy
import datetime
import enum
import functools
import importlib
import pathlib
import shutil
import sys

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attnconv.checks import InputError
from attnconv.foreign import read_plain, read_state_dict

HERE = pathlib.Path(__file__).parent
FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """The module nets_of_2019, from a folder that is gone from the path when the test reads."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    shutil.copy(HERE / "nets_of_2019.py", folder / "script_of_2019.py")
    monkeypatch.syspath_prepend(folder)
    torch.manual_seed(0)
    yield importlib.import_module("script_of_2019")
    sys.modules.pop("script_of_2019", None)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(collections.OrderedDict(conv=nn.Conv2d(2, 3, 3), bn=nn.BatchNorm2d(3), fc=nn.Linear(3, 2)))


def forget(*modules):
    """Leave the classes of these modules where no unpickler can find them."""
    for name in modules:
        del sys.modules[name]


def assert_equal(tensors, wanted):
    assert list(tensors) == list(wanted)
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    assert [tensor.dtype for tensor in tensors.values()] == [tensor.dtype for tensor in wanted.values()]
    assert not any(tensor.requires_grad for tensor in tensors.values())


@FORMATS
@pytest.mark.filterwarnings("ignore::torch.serialization.SourceChangeWarning")
def test_a_whole_module_of_a_script_that_is_gone(nets, tmp_path, new):
    model = nets.Net()
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path / "ckpt.t7"
    torch.save({"net": model, "acc": 61.6, "epoch": 35}, path, _use_new_zipfile_serialization=new)
    assert (b"class Net(" in path.read_bytes()) != new  # of old, the source was saved too
    forget("script_of_2019")
    found = read_state_dict(path)
    assert_equal(found.tensors, wanted)
    assert {"attention.conv.weight_orig", "attention.conv.weight_u", "attention.conv.weight_v", "again.weight"} <= set(
        found.tensors
    )
    assert (found.label, found.taken) == (str(path), "net")
    first, again = found.tensors["stem.0.weight"], found.tensors["again.weight"]
    assert first.data_ptr() == again.data_ptr()  # still tied
    with pytest.raises(InputError, match=r"holds something other than tensors and plain values: 'script_of_2019\.Net'"):
        read_plain(path)


@FORMATS
def test_timm_s_saver(net, tmp_path, new, monkeypatch):
    utils = pytest.importorskip("timm.utils")
    average = utils.ModelEmaV3(net)
    with torch.no_grad():
        average.module.fc.bias += 1
    args = argparse.Namespace(model="resnet50", lr=0.1, mean=(0.5,), out=pathlib.Path("out"))
    optimizer = torch.optim.AdamW(net.parameters())
    saver = utils.CheckpointSaver(net, optimizer, args, average, checkpoint_dir=str(tmp_path))
    monkeypatch.setattr(torch, "save", functools.partial(torch.save, _use_new_zipfile_serialization=new))
    saver.save_checkpoint(3, numpy.float64(76.5))
    path = tmp_path / "last.pth.tar"
    assert_equal(read_state_dict(path).tensors, net.state_dict())
    assert read_state_dict(path).taken == "state_dict"
    found = read_state_dict(path, average=True)
    assert_equal(found.tensors, average.module.state_dict())
    assert found.taken == "state_dict_ema"


class Phase(enum.Enum):
    DONE = "done"


class Config(dict):
    """As configuration libraries have them."""


class Learner:
    """As fastai's is: whatever training needs, and the model."""

    def __init__(self, model):
        self.model, self.opt, self.dls = model, torch.optim.SGD(model.parameters(), 0.1), [Phase.DONE]


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_everything_that_stands_beside_weights(net, tmp_path, new, protocol):
    beside = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("a/b")),
        "best": numpy.float32(0.5),
        "confusion": numpy.eye(3),
        "rng": numpy.random.default_rng(0),
        "when": datetime.datetime(2019, 6, 1, tzinfo=datetime.UTC),
        "meters": collections.defaultdict(list, loss=[1.0]),
        "counts": collections.Counter("aab"),
        "phase": Phase.DONE,
        "config": Config(model={"depth": 10}),
        "seen": {1, 2, frozenset([3])},
        (1, "a"): slice(1, 2),
        Phase.DONE: 2**100,
        "when_done": functools.partial(print, "done"),
        "complex": 1j,
        "bytes": b"\xff" + bytearray(3),
        "sparse": torch.eye(3).to_sparse(),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "size": torch.Size((1, 2)),
    }
    path = tmp_path / "w.pt"
    state = {**beside, "state_dict": net.state_dict()}
    torch.save(state, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    assert_equal(read_state_dict(path).tensors, net.state_dict())


def prefixed(prefix):
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


def moco(state):
    return {
        **prefixed("module.encoder_q.")(state),
        **{f"module.encoder_k.{name}": tensor + 1 for name, tensor in state.items()},
        "module.queue": torch.zeros(2, 3),
        "module.queue_ptr": torch.zeros(1),
    }


def split(state):
    return {("head." if name.startswith("fc.") else "backbone.") + name: tensor for name, tensor in state.items()}


FORMS = {
    "a state dict": (lambda s: s, "all of it"),
    "lightning": (lambda s: {"state_dict": prefixed("model.")(s), "epoch": 1}, "state_dict, without 'model.'"),
    "fastai": (lambda s: {"model": s, "opt": {"state": [], "hypers": [{"lr": 0.1}]}}, "model"),
    "nested": (lambda s: {"model": {"state_dict": s, "name": "resnet"}}, "model.state_dict"),
    "a name and a state dict": (lambda s: {"model": "resnet50", "net": {"depth": 3}, "weights": s}, "weights"),
    "BasicSR": (lambda s: {"params": s, "params_ema": {n: t + 1 for n, t in s.items()}}, "params"),
    "DataParallel": (lambda s: {"net": prefixed("module.")(s)}, "net, without 'module.'"),
    "compiled": (prefixed("module._orig_mod."), "all of it, without 'module.', '_orig_mod.'"),
    "MoCo": (
        lambda s: {"state_dict": moco(s)},
        "state_dict, without 'module.', 'encoder_q.' and without 11 tensors such as 'encoder_k.conv.weight'",
    ),
    "mmpretrain": (lambda s: {"state_dict": split(s), "meta": {}}, "state_dict, without 'backbone. and head.'"),
    "DINO": (lambda s: {"student": prefixed("module.backbone.")(s)}, "student, without 'module.', 'backbone.'"),
    "Sequential": (prefixed("0."), "all of it, without '0.'"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["zip", "legacy", "dict"])
def test_the_forms_of_trainers(net, tmp_path, form, way):
    wrap, taken = FORMS[form]
    source = wrap(net.state_dict())
    if way != "dict":
        torch.save(source, tmp_path / "w.pt", _use_new_zipfile_serialization=way == "zip")
    found = read_state_dict(source if way == "dict" else tmp_path / "w.pt")
    assert_equal(found.tensors, net.state_dict())
    assert found.taken == taken
    assert found.label == ("the state dict" if way == "dict" else str(tmp_path / "w.pt"))


def test_one_name_without_the_prefix_keeps_it_everywhere(net):
    state = {**prefixed("model.")(net.state_dict()), "loss.weight": torch.ones(2)}
    assert_equal(read_state_dict(state).tensors, state)


def test_wrappers_in_wrappers_end():
    assert list(read_state_dict({"0." * 9 + "weight": torch.ones(2)}).tensors) == ["0.weight"]


def test_parameters_of_a_dict_are_taken_without_their_graph():
    assert not read_state_dict({"weight": nn.Parameter(torch.ones(2))}).tensors["weight"].requires_grad


def test_a_body_and_a_head_that_would_fall_together_keep_their_names():
    state = {"backbone.weight": torch.ones(2), "head.weight": torch.zeros(2)}
    assert_equal(read_state_dict(state).tensors, state)


@pytest.mark.parametrize("whole", [False, True])
def test_torch_s_own_average(net, tmp_path, whole):
    average = torch.optim.swa_utils.AveragedModel(net)
    with torch.no_grad():
        average.module.fc.bias += 1
    torch.save({"model": net, "model_ema": average if whole else average.state_dict()}, tmp_path / "w.pt")
    found = read_state_dict(tmp_path / "w.pt", average=True)
    assert_equal(found.tensors, average.module.state_dict())
    assert found.taken == "model_ema, without 'module.' and without 1 tensors such as 'n_averaged'"
    assert_equal(read_state_dict(tmp_path / "w.pt").tensors, net.state_dict())


def test_whole_things_with_a_model_in_them(net, tmp_path):
    torch.save(Learner(net), tmp_path / "learner.pkl")
    assert_equal(read_state_dict(tmp_path / "learner.pkl").tensors, net.state_dict())
    traced = torch.fx.symbolic_trace(net)
    torch.save(traced, tmp_path / "traced.pt")
    assert_equal(read_state_dict(tmp_path / "traced.pt").tensors, net.state_dict())
    assert_equal(read_state_dict({"model": nn.DataParallel(net)}).tensors, net.state_dict())


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        torch.float16,
        torch.float64,
        torch.complex64,
        torch.float8_e4m3fn,
        torch.uint16,
        torch.bool,
        torch.int8,
    ],
)
@FORMATS
def test_every_kind_of_number(tmp_path, dtype, new):
    base = torch.arange(24).to(torch.float32).view(4, 6).to(dtype)
    state = {"whole": base, "view": base[1:, ::2], "turned": base.t(), "scalar": base[2, 3], "none": base[:0]}
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    found = read_state_dict(tmp_path / "w.pt").tensors
    for name, tensor in state.items():
        assert found[name].dtype == dtype
        assert found[name].stride() == tensor.stride()
        assert found[name].tolist() == tensor.tolist()


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_whatever_the_suffix(net, tmp_path, name):
    save_file(prefixed("model.")(net.state_dict()), tmp_path / name)
    found = read_state_dict(tmp_path / name)
    wanted = net.state_dict()
    assert_equal({key: found.tensors[key] for key in wanted}, wanted)
    assert found.taken == "all of it, without 'model.'"


def test_plain_values_come_back_as_they_were(net, tmp_path):
    state = {
        "model": dict(net.state_dict()),
        "rows": [{"epoch": 1, "loss": 0.5}],
        "betas": (0.9, None),
        3: "\ud800",
        "t": True,
    }
    torch.save(copy.deepcopy(state), tmp_path / "w.pt")
    back = read_plain(tmp_path / "w.pt")
    assert_equal(back.pop("model"), state.pop("model"))
    assert back == state
    assert type(back["t"]) is bool


@pytest.mark.parametrize(
    ("state", "average", "message"),
    [
        (
            {"epoch": 3, "args": argparse.Namespace()},
            False,
            r"holds no tensors by name: it holds 'epoch' \(int\), 'args' \(",
        ),
        ({"a\x1b\u202e": 1}, False, r"it holds 'a\\x1b\\u202e' \(int\)$"),
        ({}, False, "holds no tensors by name: it holds nothing$"),
        (
            {"state_dict_ema": {"w": torch.ones(1)}},
            False,
            "averaged weights alone, under state_dict_ema: ask for them by av",
        ),
        (
            {"model": {"w": torch.ones(1)}},
            True,
            r"no averaged weights, under state_dict_ema or .*: it holds 'model' \(dict\)$",
        ),
        ({"model": nn.Linear(1, 1)}, True, r"no averaged weights, under .*: it holds 'model' \(torch\.nn\.modules\."),
        ([torch.ones(2)], False, "it holds no dict, but 'list'$"),
        (torch.ones(2), False, "it holds no dict, but "),
    ],
)
def test_nothing_to_take(tmp_path, state, average, message):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=message):
        read_state_dict(tmp_path / "w.pt", average=average)


def test_a_source_of_another_type():
    with pytest.raises(InputError, match="weights are read from a path or a state dict, not int"):
        read_state_dict(3)  # pyright: ignore[reportArgumentType]


@pytest.mark.timeout(120)
def test_a_dict_that_holds_itself_is_looked_at_a_limited_number_of_times():
    held = {f"plain {n}": n for n in range(20_000)}
    held |= dict.fromkeys(("state_dict", "model", "net", "params", "weights", "student"), held)
    with pytest.raises(InputError, match=r"^the state dict would take more memory than twice its size and 100 MB$"):
        read_state_dict(held)
    small = {}
    small |= dict.fromkeys(("state_dict", "model", "net", "params", "weights", "student"), small)
    with pytest.raises(InputError, match=r"^the state dict holds no tensors by name: it holds 'state_dict'"):
        read_state_dict(small)


@pytest.mark.timeout(120)
def test_many_names_beside_a_prefix():
    one = torch.ones(1)
    state = {f"encoder_q.{n}": one for n in range(60_000)} | {f"encoder_k.{n}": one for n in range(60_000)}
    assert len(read_state_dict(state).tensors) == 60_000
