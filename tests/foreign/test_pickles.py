"""Pickles that no trainer writes: what reaches outside is refused, what would run is put down and never run."""

import pickle
import struct

import pytest
import torch
from foreign.hostile import FLOATS, archive, call, legacy, named, number, sizes, storage, tensor, text

from attnconv.checks import InputError
from attnconv.foreign import read_plain, read_state_dict

DATA = {"0": struct.pack("<4f", 1, 2, 3, 4), "1": bytes(3)}
MODULE = b"ctorch._utils\n_rebuild_tensor_v3\n("


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (tensor(), [[1, 2], [3, 4]]),
        (tensor(offset=1, size=sizes(3), stride=sizes(1)), [2, 3, 4]),
        (tensor(offset=3, size=sizes(1, 1), stride=sizes(9, 0)), [[4]]),
        (tensor(offset=4, size=sizes(0, 5), stride=sizes(5, 1)), []),
        (tensor(size=b")", stride=b")"), 1),
        (tensor(size=sizes(2, 2), stride=sizes(1, 2)), [[1, 3], [2, 4]]),
        (tensor(size=sizes(2, 2), stride=sizes(1, 1)), [[1, 2], [2, 3]]),
        (call("torch._utils._rebuild_parameter", tensor(), b"\x88", b"}"), [[1, 2], [3, 4]]),
        (call("torch._utils._rebuild_parameter_with_state", tensor(), b"\x88", b"}", b"}"), [[1, 2], [3, 4]]),
        (
            call(
                "torch._tensor._rebuild_from_type_v2",
                b"ctorch._utils\n_rebuild_tensor_v2\n",
                b"cfastai\nTensor\n",
                b"(" + storage() + b"K\x00" + sizes(4) + sizes(1) + b"\x89}t",
                b"}",
            ),
            [1, 2, 3, 4],
        ),
        (MODULE + storage(count=16, kind=b"ctorch.storage\nUntypedStorage\n") + b"K\x01" + sizes(3) + sizes(1)
         + b"\x89}ctorch\nfloat32\ntR", [2, 3, 4]),
    ],
)  # fmt: skip
def test_tensors_within_their_storage(tmp_path, value, wanted):
    assert read_state_dict(archive(tmp_path / "w.pt", named("w", value), DATA)).tensors["w"].tolist() == wanted


LARGER = "a tensor is larger than its storage"
MORE = "a tensor has more elements than its storage"
NEGATIVE = "a size, stride or offset is negative or no integer"
UNKNOWN = "a storage of an unknown class or name"
REFUSED = {
    "one element too many": (tensor(size=sizes(5), stride=sizes(1)), LARGER),
    "behind the end": (tensor(offset=1), LARGER),
    "strides over the end": (tensor(size=sizes(2, 2), stride=sizes(3, 1)), LARGER),
    "nothing, behind the end": (tensor(offset=5, size=sizes(0), stride=sizes(1)), LARGER),
    "an expanded element": (tensor(size=sizes(5), stride=sizes(0)), MORE),
    "expanded rows": (tensor(size=sizes(3, 2), stride=sizes(0, 1)), MORE),
    "sizes whose product passes 64 bits": (tensor(size=sizes(2**40, 2**40), stride=sizes(0, 0)), MORE),
    "a negative size": (tensor(size=sizes(-1, -4), stride=sizes(1, 1)), NEGATIVE),
    "a negative stride": (tensor(offset=3, size=sizes(4), stride=sizes(-1)), NEGATIVE),
    "a negative offset": (tensor(offset=-1, size=sizes(2), stride=sizes(1)), NEGATIVE),
    "a size that is True": (tensor(size=b"(\x88t", stride=sizes(1)), NEGATIVE),
    "a size that is a float": (tensor(size=b"(" + pickle.dumps(1.0, 2)[2:-1] + b"t", stride=sizes(1)), NEGATIVE),
    "65 axes": (tensor(size=sizes(*[1] * 65), stride=sizes(*[1] * 65)), "must be at most 64 integers"),
    "a size that is no tuple": (tensor(size=b"K\x04", stride=sizes(1)), "must be at most 64 integers"),
    "one stride less": (tensor(size=sizes(2, 2), stride=sizes(1)), "other numbers of sizes and strides"),
    "a negated tensor": (tensor().removesuffix(b"tR") + b"}" + text("neg") + b"\x88stR", "conjugated or negated"),
    "a conjugated one": (tensor().removesuffix(b"tR") + b"}" + text("conj") + b"\x88stR", "conjugated or negated"),
    "no storage": (tensor(on=b"N"), "a tensor without a storage"),
    "no dtype": (MODULE + storage() + b"K\x00" + sizes(4) + sizes(1) + b"\x89}NtR", "a tensor of no dtype"),
    "wider numbers": (MODULE + storage() + b"K\x00" + sizes(4) + sizes(1) + b"\x89}ctorch\nfloat64\ntR", LARGER),
    "a storage larger than its bytes": (tensor(on=storage(count=5)), "a storage of 20 bytes is announced where 16 are"),
    "a storage that is not there": (tensor(on=storage("2")), "a storage of 16 bytes is announced where 0 are"),
    "a storage in another member": (tensor(on=storage("../data.pkl", 1)), "of 4 bytes is announced where 0 are"),
    "a storage of a negative count": (tensor(on=storage(count=-1)), NEGATIVE),
    "a storage of a class": (tensor(on=storage(kind=b"cos\nsystem\n")), UNKNOWN),
    "a storage without a name": (b"(" + text("storage") + FLOATS + b"NNK\x01tQ", UNKNOWN),
    "a module": (b"(" + text("module") + b"cos\nsystem\n" + text("a") + text("b") + b"NtQ", "something else than a"),
    "a short persistent id": (b"(" + text("storage") + b"tQ", "not enough values"),
    "a persistent id of a number": (b"K\x01Q", "a persistent id that torch.save does not write"),
    "a persistent id in text": (b"P0\n", "a persistent id that torch.save does not write"),
    "an unknown instruction": (b"\xff", "its pickle cannot be followed"),
    "a buffer": (b"\x97", "its pickle cannot be followed"),
    "an unmade thing": (b"h\x09", "its pickle cannot be followed"),
    "a negative place": (b"Np-1\n", NEGATIVE),
    "a line without an end": (b"c" + b"x" * 70_000, "a line without an end"),
    "a long integer": (b"\x8b" + struct.pack("<I", 256) + b"\x01" * 256, "an integer of more than 255 bytes"),
    "a negative length": (b"\x8b\xff\xff\xff\xff", "an integer of more than 255 bytes"),
    "a name that is no text": (b"K\x01K\x02\x93", "a name that is no text"),
    "an entry of a number": (b"K\x01K\x02K\x03s", "an entry for something that is no dict"),
    "an element of a number": (b"K\x01K\x02a", "an element for something that is no list"),
    "an element of a text": (text("w") + b"(K\x02e", "an element for something that is no list"),
    "too few": (b"00000", "its pickle cannot be followed"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name):
    value, message = REFUSED[name]
    path = archive(tmp_path / "w.pt", named("w", value), DATA)
    with pytest.raises(
        InputError, match=r"^\S*w\.pt is cut short or damaged, or no file of torch\.save: [^\n]*" + message
    ):
        read_state_dict(path)


RUN = {
    "a call": (call("os.system", text("true")), "posix.system|os.system"),
    "eval": (call("builtins.eval", text("1")), "builtins.eval"),
    "of torch": (call("torch.hub.load", text("a")), "torch.hub.load"),
    "a storage's reader": (call("torch.storage._load_from_bytes", b"C\x01a"), "torch.storage._load_from_bytes"),
    "of this library": (call("attnconv.foreign.read_state_dict", text("x")), "attnconv.foreign.read_state_dict"),
    "a new object": (b"cos\nPopen\n(" + text("true") + b"t\x81", "os.Popen"),
    "with keywords": (b"cos\nPopen\n)}\x92", "os.Popen"),
    "an instance": (b"(" + text("true") + b"ios\nsystem\n", "os.system"),
    "an object": (b"(cos\nsystem\n" + text("true") + b"o", "os.system"),
    "a state": (b"cnets\nNet\n)\x81}" + text("__setstate__") + b"cos\nsystem\nsb", "nets.Net"),
    "an extension": (b"\x82\x07", "copyreg.extension 7"),
    "a name": (b"cos\nsystem\n", "os.system"),
    "a name of the stack": (text("os") + text("system") + b"\x93", "os.system"),
    "a dotted name": (text("builtins") + text("dict.__init__") + b"\x93", "builtins.dict.__init__"),
    "a call of what a call gives": (call("builtins.getattr", text("a")) + b")R", "an object"),
    "a call of a number": (b"K\x01)R", "an object"),
}


@pytest.mark.parametrize("name", RUN)
def test_what_would_run_is_put_down(tmp_path, name):
    value, kind = RUN[name]
    content = b"\x80\x04}(" + text("beside") + value + text("w") + tensor() + b"u."
    path = archive(tmp_path / "w.pt", content, DATA)
    assert read_state_dict(path).tensors["w"].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(InputError, match=rf"w\.pt holds something other than tensors and plain values: '({kind})'$"):
        read_plain(path)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"(lp0\nI3\naI00\naI01\naL5L\naF1.5\nag0\n0.", [3, False, True, 5, 1.5]),
        (b"\x80\x02(K\x01K\x02d.", {1: 2}),
        (b"\x80\x04\x8f(K\x01K\x02\x90.", [1, 2]),
        (b"\x80\x04(K\x01\x91.", [1]),
        (b"\x80\x02c__builtin__\nset\n](K\x01K\x01e\x85R.", [1, 1]),
        (b"\x80\x02]cos\nsystem\n0.", []),
        (b"\x80\x02}(](K\x01e)K\x03K\x04NK\x05u.", {3: 4, None: 5}),  # what cannot be a key is left out
        (b"\x80\x02}(K\x01K\x02K\x03u.", None),
        (
            b"\x80\x02}" + sizes(*range(8)) + b"K\x01s" + sizes(*range(9)) + b"K\x01s" + b")\x85K\x01s.",
            {tuple(range(8)): 1},
        ),
        # Numbers so large that others have the same hash are left out too.
        (
            b"\x80\x02}(" + number(2**61 - 1) + b"N" + number(1 - 2**61) + b"NG\x43\xc0" + bytes(6) + b"NK\x01Nu.",
            {1: None},
        ),
        (b"\x80\x02}" + number(2**61 - 1) + b"\x85K\x01s.", {}),
        (b"K\x01p4294967295\n.", 1),
        (b"K\x01p4294967296\n.", None),
    ],
)
def test_instructions(tmp_path, content, wanted):
    path = archive(tmp_path / "w.pt", content, DATA)
    if wanted is None:
        with pytest.raises(InputError):
            read_plain(path)
    else:
        assert read_plain(path) == wanted


@pytest.mark.parametrize("protocol", range(6))
def test_values_of_every_protocol(tmp_path, protocol):
    value = {
        "a": [1, -(2**70), 2.5, None, True, "\N{SNOWMAN}\n", "\xe9"],
        "b": ({}, (), (1,), (1, 2), (1, 2, 3, 4)),
        3: b"\xff",
    }
    if protocol < 3:
        del value[3]  # bytes are a call there
    path = archive(tmp_path / "w.pt", pickle.dumps(value, protocol), DATA)
    assert read_plain(path) == value


KEYS = b"\x80\x02]" + text("0") + b"a."


def legacy_file(path, *, count=4, on=None, keys=KEYS, rest=None):
    on = on or b"(" + text("storage") + FLOATS + text("0") + text("cpu") + number(count) + b"NtQ"
    data = struct.pack("<q", 4) + DATA["0"] if rest is None else rest
    path.write_bytes(legacy(named("w", tensor(on=on)), keys, data))
    return path


def view(first, length):
    """The storage of a file of the first versions, or ``length`` of its four elements."""
    of = b"(" + text("v") + number(first) + number(length) + b"t"
    return b"(" + text("storage") + FLOATS + text("0") + text("cpu") + number(4) + of + b"tQ"


def test_views_of_the_first_versions(tmp_path):
    assert read_state_dict(legacy_file(tmp_path / "w.pt")).tensors["w"].tolist() == [[1, 2], [3, 4]]
    content = b"\x80\x02}(" + text("a") + tensor(on=view(0, 4)) + text("b")
    content += tensor(on=view(1, 3), offset=1, size=sizes(2), stride=sizes(1)) + b"u."
    (tmp_path / "w.pt").write_bytes(legacy(content, KEYS, struct.pack("<q", 4) + DATA["0"]))
    found = read_state_dict(tmp_path / "w.pt").tensors
    assert (found["a"].tolist(), found["b"].tolist()) == ([[1, 2], [3, 4]], [3, 4])


def test_a_file_of_python_2_and_a_gpu(tmp_path):
    """Texts of bytes, pairs in lists, storages of torch.cuda."""
    on = b"(U\x07storagectorch.cuda\nFloatStorage\nU\x010U\x06cuda:0" + number(4) + b"NtQ"
    content = (
        b"\x80\x02ccollections\nOrderedDict\n](](U\x0dmodule.weight" + tensor(on=on) + b"e](U\x0bmodule.biasNee\x85R."
    )
    (tmp_path / "w.pt").write_bytes(legacy(content, KEYS, struct.pack("<q", 4) + DATA["0"]))
    assert read_state_dict(tmp_path / "w.pt").tensors["weight"].tolist() == [[1, 2], [3, 4]]


LEGACY = {
    "a storage larger than the file": ({"count": 2**20}, "bytes is announced in a file of"),
    "a storage larger than the rest": ({"count": 40, "rest": struct.pack("<q", 40) + bytes(16)}, "where 16 are left"),
    "another count": ({"rest": struct.pack("<q", 3) + bytes(16)}, "where 16 are left"),
    "a negative count": ({"rest": struct.pack("<q", -1) + bytes(16)}, NEGATIVE),
    "cut short": ({"rest": struct.pack("<q", 4) + bytes(15)}, "where 15 are left"),
    "no storages": ({"keys": b"\x80\x02]."}, "its list of storages is not of those that it uses"),
    "other storages": ({"keys": b"\x80\x02](" + text("0") + text("1") + b"e."}, "its list of storages is not of those"),
    "a storage of a tuple": ({"keys": b"\x80\x02])a."}, "its list of storages is not of those that it uses"),
    "a view behind the end": ({"on": view(1, 4)}, "a view is larger than its storage"),
    "a tensor behind its view": ({"on": view(1, 3)}, LARGER),
    "something else": ({"on": b"(" + text("class") + b"NNNNNtQ"}, "something else than a storage"),
}


@pytest.mark.parametrize("name", LEGACY)
def test_the_old_format(tmp_path, name):
    changes, message = LEGACY[name]
    path = legacy_file(tmp_path / "w.pt", **changes)
    with pytest.raises(
        InputError, match=rf"^\S*w\.pt is cut short or damaged, or no file of torch\.save: [^\n]*{message}"
    ):
        read_state_dict(path)


def test_a_storage_of_two_sizes(tmp_path):
    one, other = (b"(" + text("storage") + FLOATS + text("0") + text("cpu") + number(n) + b"NtQ" for n in (4, 3))
    content = b"\x80\x02}(" + text("w") + tensor(on=one) + text("v") + other + b"u."
    (tmp_path / "w.pt").write_bytes(legacy(content, KEYS, struct.pack("<q", 4) + bytes(16)))
    with pytest.raises(InputError, match="a storage has two sizes"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "start", [pickle.dumps(7, 2), pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1000, 2), b"weights", b""]
)
def test_files_that_begin_otherwise(tmp_path, start):
    (tmp_path / "w.pt").write_bytes(start + pickle.dumps({}, 2))
    with pytest.raises(InputError, match=r"no file of torch\.save: it does not begin as one"):
        read_state_dict(tmp_path / "w.pt")


def test_the_old_format_of_another_byte_order(tmp_path):
    data = legacy_file(tmp_path / "w.pt").read_bytes()
    start = pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
    assert start in data
    (tmp_path / "w.pt").write_bytes(data.replace(start, start.replace(b"\x88", b"\x89")))
    with pytest.raises(InputError, match="saved on a machine of another byte order"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("new", [True, False])
def test_files_cut_anywhere(tmp_path, new):
    torch.save({"w": torch.arange(6.0)}, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    data = (tmp_path / "w.pt").read_bytes()
    for length in range(0, len(data), 7):
        (tmp_path / "w.pt").write_bytes(data[:length])
        with pytest.raises(InputError, match=r"^[^\n]+$"):
            read_state_dict(tmp_path / "w.pt")


def test_things_nested_deep(tmp_path):
    content = b"\x80\x02" + b"(" * 10_000 + b"t" * 10_000 + b"."
    path = archive(tmp_path / "w.pt", content, DATA)
    with pytest.raises(InputError, match="it holds no dict, but 'tuple'"):
        read_state_dict(path)
    with pytest.raises(InputError, match="what it holds is nested more than 100 deep"):
        read_plain(path)


def test_a_dict_that_holds_itself(tmp_path):
    path = archive(tmp_path / "w.pt", b"\x80\x02}q\x00" + text("model") + b"h\x00s.", DATA)
    with pytest.raises(InputError, match="holds no tensors by name: it holds 'model' "):
        read_state_dict(path)
