"""Reading takes at most twice the file and 100 MB, whatever the file announces, and ends."""

import struct
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from foreign.hostile import FLOATS, archive, call, legacy, named, number, sizes, storage, tensor, text
from foreign.in_a_process import outcomes

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs /proc, for its peaks of memory"
)

MB = 1_000_000
GREW = b"\x80\x02"  # the start of each pickle
PAIRS = b"(" + b"".join(b"(" + text(f"k{n}") + b"Nt" for n in range(10_000)) + b"l"


def nested(make: bytes, depth: int) -> bytes:
    """A thing that holds the thing before it twice, and so on: written out it would have 2 ** depth parts."""
    return b")q\x00" + b"".join(b"0h\x00h\x00" + make + b"q\x00" for _ in range(depth))


def names(count: int) -> bytes:
    """Entries of a dict, all of them the same tensor."""
    first = text("w") + tensor() + b"q\x01"
    return first + b"".join(b"\x8c\x05" + f"{n:05}".encode() + b"h\x01" for n in range(count))


def module(children: bytes, parameters: bytes = b"") -> bytes:
    """A module of an unknown class, in the memo under 0."""
    parts = (("_parameters", parameters), ("_buffers", b""), ("_modules", children))
    return b"cnets\nNet\n)\x81}(" + b"".join(text(name) + b"}(" + held + b"u" for name, held in parts) + b"ubq\x00"


def modules(depth: int, parameters: bytes = b"") -> bytes:
    """A module that holds the module before it under two names, and so on; the first has ``parameters``."""
    first = module(b"", parameters)
    return first + b"".join(b"0" + module(text("a") + b"h\x00" + text("b") + b"h\x00") for _ in range(depth))


def long_names(letters: str) -> bytes:
    """A module of 5,000 parameters, whose name begins with prefixes that are stripped."""
    return module(text("module." * 8 + letters) + module(b"", names(5000)))


def axes(count: int) -> bytes:
    """A list of tensors of 64 axes each, all with the same arguments."""
    one = tensor(size=sizes(*[1] * 64), stride=sizes(*[1] * 64)).removesuffix(b"R")
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return function + b"q\x02" + one + b"q\x01" + b"](" + b"h\x02h\x01R" * count + b"e"


PICKLES = {
    "a call of bytearray": call("builtins.bytearray", number(2**31)),
    "a call of a storage": call("torch.FloatStorage", number(2**31)),
    "a high place in the memo": b"Nr\xff\xff\xff\xff",
    "a long integer": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "a long text": b"\x8d" + struct.pack("<Q", 2**60),
    "long bytes": b"\x8e" + struct.pack("<Q", 2**35),
    "a long byte array": b"\x96" + struct.pack("<Q", 2**35),
    "a long frame": b"\x95" + struct.pack("<Q", 2**60) + b"N",
    "20 million lists": b"]" * 20 * MB,
    "20 million marks": b"(" * 20 * MB,
    "20 million dicts": b"}" * 20 * MB,
    "10 million names of None": b"N" + b"\x94" * 10 * MB,
    "a dict made 5,000 times": PAIRS
    + b"q\x00"
    + b"".join(call("collections.OrderedDict", b"h\x00") for _ in range(5000)),
    "a set made 5,000 times": PAIRS + b"q\x00" + b"".join(call("builtins.set", b"h\x00") for _ in range(5000)),
    "letters of four bytes": text("\N{PILE OF POO}" + "x" * 40 * MB),
    "keys of nested tuples": b"}" + nested(b"\x86", 80) + b"Ns",
    "a storage named by nested tuples": b"(" + nested(b"\x86", 80) + b"NNNNtQ",
    "a size of nested tuples": tensor(size=nested(b"\x86", 80)),
    "modules in two places each": modules(60),
    "tensors in many places": modules(12, names(2_000)),
    "many names of one tensor": b"}(" + names(100_000) + b"u",
    "long names": long_names("x" * 60_000),
    "long names in letters of four bytes": long_names("\U00010348" * 16_000),
    "64 axes": axes(140_000),
    "an expanded tensor": tensor(size=sizes(2**40), stride=sizes(0)),
}


@pytest.fixture(scope="module")
def attacks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacks")
    files = {
        name: archive(folder / f"{name}.pt", GREW + body + b".", {"0": bytes(16)}) for name, body in PICKLES.items()
    }
    pid = b"(" + text("storage") + FLOATS + text("0") + text("cpu") + number(2**40) + b"NtQ"
    content = legacy(named("w", tensor(on=pid)), GREW + b"(" + text("0") + b"l.", struct.pack("<q", 2**40))
    (folder / "a storage of 4 TB.pt").write_bytes(content)
    keys = GREW + b"]" + nested(b"\x86", 80) + b"a."
    (folder / "a storage under nested tuples.pt").write_bytes(legacy(named("w", b"N"), keys, b""))
    with zipfile.ZipFile(folder / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", named("w", tensor(on=storage(count=50 * MB), size=sizes(50 * MB), stride=sizes(1))))
        file.writestr("a/data/0", bytes(200 * MB))
    with zipfile.ZipFile(folder / "members.pt", "w") as file:
        for n in range(150_000):
            file.writestr(f"a/{n}", b"")
    with open(folder / "sparse.pt", "wb") as file:
        file.truncate(200_000 * MB)
    return {path.stem: (path, found) for path, found in _read(sorted(folder.glob("*.pt"))).items()}, files


def _read(paths):
    found = outcomes(paths)
    return {path: found[path.name] for path in paths}


def header_of(count: int) -> bytes:
    entries = ",".join(f'"{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in range(count))
    return f"{{{entries}}}".encode()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Large files of weights, by their names: the path and what reading them came to, all in one process."""
    folder = tmp_path_factory.mktemp("large")
    for count in (70_000, 140_000):
        header = header_of(count)
        (folder / f"{count}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    weights = {f"{n}.weight": torch.ones(500_000 + n) for n in range(50)}  # 100 MB
    for name in ("zip", "legacy"):
        state = {"model": weights, "optimizer": {"state": weights}}
        torch.save(state, folder / f"{name}.pt", _use_new_zipfile_serialization=name == "zip")
    arrays = {"state_dict": {"w": torch.ones(11)}, "features": numpy.arange(4_000_000.0), "raw": bytes(10 * MB)}
    torch.save(arrays, folder / "arrays.pt")  # 32 MB of numbers are 37 MB of text
    return {path.stem: (path, line) for path, line in _read(sorted(folder.iterdir())).items()}


def test_numbers_of_arrays_are_skipped(large):
    path, line = large["arrays"]
    assert path.stat().st_size > 45 * MB
    assert (line["outcome"], line["grown"] < 10 * MB) == ("found", True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("count", "outcome"), [(70_000, "found"), (140_000, "has a header of ")])
def test_many_empty_tensors_of_safetensors(large, count, outcome):
    path, line = large[str(count)]
    assert outcome in line["outcome"]
    assert line["grown"] < 2 * path.stat().st_size + 100 * MB


NAMES = (*PICKLES, "a storage of 4 TB", "a storage under nested tuples", "deflated", "members", "sparse")


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_is_refused_in_one_line_and_takes_little(attacks, name):
    path, line = attacks[0][name]
    assert line["outcome"].startswith(str(path)), line
    assert "\n" not in line["outcome"]
    assert line["seen"] == []
    size = path.stat().st_size if name != "sparse" else 0
    assert line["grown"] < 2 * size + 100 * MB


@pytest.mark.parametrize(
    "name",
    ["members", "tensors in many places", "many names of one tensor", "20 million lists", "long names", "64 axes"],
)
def test_what_stops_these_is_the_count_of_bytes(attacks, name):
    assert attacks[0][name][1]["outcome"].endswith(".pt would take more memory than twice its size and 100 MB")


@pytest.mark.parametrize("name", ["zip", "legacy"])
def test_a_large_file_of_weights(large, name):
    path, line = large[name]
    assert line["outcome"] == "found"
    assert line["grown"] < path.stat().st_size + 60 * MB


def test_a_checkpoint_of_ours_that_holds_lists_in_lists(tmp_path):
    content = b"\x80\x02}" + text("format") + nested(b"\x86", 80) + b"s."
    (line,) = outcomes([archive(tmp_path / "last.pt", content)], reader="read_plain").values()
    assert line["outcome"].endswith("last.pt would take more memory than twice its size and 100 MB")
    assert line["grown"] < 100 * MB
