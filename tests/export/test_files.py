"""ONNX and .pt2 files: each family exports, is checked before it is kept, and says what it is."""

import json
import re
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from export.hostile_programs import ATTACKS
from export.untrained import meta, network

from attnconv import __version__, export, surgery
from attnconv.export import capture
from attnconv.export.capture import DisagreementError, described
from attnconv.export.network import config_text, read_config
from attnconv.recipes import load_trained

pytest.importorskip("onnxscript", reason="needs attnconv[onnx]")
pytest.importorskip("onnxruntime", reason="needs attnconv[onnx]")

slow = pytest.mark.slow
# The smallest of each family, its options, images, and the sizes that its file takes.
FAMILIES = [
    pytest.param("unet", {}, (9, 8), ((4, None), (4, None)), id="unet"),
    pytest.param("aa_unet", {}, (9, 8), ((4, 11), (4, 11)), id="aa_unet"),
    pytest.param("ssa_xresnet18", {"symmetric": True}, (16, 9), ((1, None), (1, None)), id="symmetric"),
    pytest.param("ssa_xresnet18", {}, (16, 9), ((1, None), (1, None)), id="ssa_xresnet18"),
    pytest.param("sa_xresnet18", {}, (16, 9), ((1, None), (1, None)), id="sa_xresnet18"),
    pytest.param("aa_convnet3", {}, (16, 13), ((8, 17), (8, 13)), id="aa_convnet3"),
    pytest.param("aa_wide_resnet10_1", {}, (9, 8), ((1, 9), (1, 8)), id="aa_wide_resnet10_1"),
    pytest.param("aa_resnet18", {}, (33, 40), ((1, 40), (1, 40)), id="aa_resnet18"),  # 5 cells of 8 pixels
    pytest.param("aa_resnet50", {}, (32, 32), ((1, 32), (1, 32)), id="aa_resnet50"),
]
BOTH = [("onnx", ".onnx"), ("torch", ".pt2")]
QUICK = {("aa_unet", "onnx"), ("symmetric", "torch")}  # an export takes five to ten seconds


@pytest.mark.parametrize(
    ("name", "options", "size", "takes", "form", "suffix"),
    [
        pytest.param(
            *family.values, *both, id=f"{family.id}-{both[0]}", marks=[slow] * ((family.id, both[0]) not in QUICK)
        )
        for family in FAMILIES
        for both in BOTH
    ],
)
def test_each_family_answers_as_pytorch_at_every_size(tmp_path, form, suffix, name, options, size, takes):
    model, path = network(name, size, **options), tmp_path / f"model{suffix}"
    written = export.FORMATS[form](model, path, meta=meta(size))
    assert (written.sizes.rows, written.sizes.columns) == takes
    assert {d.batch for d in written.differences} >= {1, 2, 5}
    assert len({(d.rows, d.columns) for d in written.differences}) == 3
    found = export.load_exported(path, trust=True)
    assert (found.meta, found.sizes) == (meta(size), written.sizes)
    assert (found.config["model"], found.config["num_classes"]) == (name, 3)
    assert {key: found.config["options"][key] for key in options} == options
    (low, most), (left, widest) = takes
    for shape in ((4, 2, low, widest or 21), (1, 2, most or 35, left), (1, 2, low, left), (2, 2, low + 1, left + 2)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = model(images)
        scale = expected.abs().max().item()
        torch.testing.assert_close(found(images), expected, rtol=0, atol=1e-3 * scale)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model = network("unet", 8)
    for form, suffix in BOTH:
        export.FORMATS[form](model, folder / f"model{suffix}", meta=meta(8, dense=True))
    return folder


PATHS = [
    ("onnx", ".onnx", export.load_onnx),
    ("torch", ".pt2", partial(export.load_program, trust=True)),
]


@pytest.mark.parametrize(("form", "suffix", "load"), [pytest.param(*PATHS[0], marks=slow), PATHS[1]])
def test_a_path_may_be_a_string(tmp_path, form, suffix, load):
    path = str(tmp_path / f"own{suffix}")
    written = export.FORMATS[form](network("convnet3", 9), path, meta=meta(9))
    assert written.path == Path(path)
    assert export.is_exported(path)
    assert export.load_exported(path, trust=True).config == load(path).config == load(Path(path)).config


@pytest.mark.parametrize("form", [pytest.param("onnx", marks=slow), "torch"])
@pytest.mark.parametrize(
    ("classes", "answer", "message"),
    [
        (["one", "two"], lambda y: y, r"\(B, 2\) or \(B, 2, rows, columns\), for the 2 classes in meta, got \(1, 3\)"),
        (["one"], lambda y: y[:, 0], r"for the 1 classes in meta, got \(1,\)"),
        (["one", "two", "three"], lambda y: (y, y), r"for the 3 classes in meta, got tuple"),
    ],
)
def test_classes_are_held_to_the_logits(tmp_path, form, classes, answer, message):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network("convnet3", 9)

        def forward(self, x):
            return answer(self.inner(x))

    with pytest.raises(ValueError, match=message):
        export.FORMATS[form](Own(), tmp_path / "m", meta={**meta(9), "classes": classes})
    assert list(tmp_path.iterdir()) == []


def test_other_programs_read_the_metadata(files):
    import onnxruntime

    session = onnxruntime.InferenceSession(files / "model.onnx", providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape) == ("images", ["batch", 2, "rows", "columns"])
    assert (logits.name, logits.shape[:2]) == ("logits", ["batch", 3])
    texts = session.get_modelmeta().custom_metadata_map
    beside = dict.fromkeys(texts, "")
    torch.export.load(files / "model.pt2", extra_files=beside)
    assert re.fullmatch("[0-9a-f]{64}", texts.pop("attnconv_sha256"))
    assert beside.pop("attnconv_sha256") == ""  # a .pt2 has its own elsewhere
    assert texts == beside
    config = json.loads(texts["attnconv"])
    assert (config["format"], config["version"], config["model"]) == ("attnconv 1", __version__, "unet")
    assert (config["num_classes"], config["in_channels"], config["image_size"]) == (3, 2, [8, 8])
    assert config["meta"] == meta(8, dense=True)
    assert config["image_sizes"] == {"rows": [4, None], "columns": [4, None]}
    assert "centre" in config["preprocessing"]["crop"]


def test_plain_torch_runs_the_program_on_one_image(files):
    program = torch.export.load(files / "model.pt2").module()
    assert program(torch.randn(1, 2, 5, 7)).shape == (1, 3, 5, 7)


def test_a_file_says_nothing_of_this_machine(files):
    """torch's exporters would write, for each operator, the lines of the files that it comes from."""
    ours = [str(Path(package.__file__).parent).encode() for package in (export, torch)]
    for path in files.iterdir():
        data = path.read_bytes()
        assert len(data) > 10_000
        assert [folder for folder in ours if folder in data] == []


def test_a_file_for_another_size_says_so():
    """The run's own images are prepared to it when the file is scored, and its scores are of other images."""
    model, provenance = network("aa_convnet3", 16), {"config": {"image_size": None}, "scores": {"val_top1": 50.0}}
    found = described(model, meta(16), provenance, 12)
    assert (found["image_size"], found["meta"]["image_size"]) == ([16, 16], [12, 12])
    assert found["provenance"] == {"config": {"image_size": 12}, "scores": None}
    assert described(model, meta(16), provenance, None)["provenance"] == provenance


@pytest.mark.parametrize(
    ("size", "message"),
    [(33, r"images of 33 x 33 are larger .*resize_feat_size\(model, \(33, 33"), (4, "at least 8 x 8 pixels")],
)
def test_a_size_that_the_network_does_not_take(size, message):
    with pytest.raises(ValueError, match=message):
        described(network("aa_convnet3", 16), meta(16), None, size)


def test_resized_tables_are_in_the_config():
    model = network("aa_convnet3", 16)
    surgery.resize_feat_size(model, (40, 24))
    assert described(model, meta(16), None, None)["feat_sizes"] == {"layer2.0": [20, 12], "layer3.0": [10, 6]}


def test_a_network_says_itself_what_it_is_and_another_by_its_meta():
    model = network("unet", 8)
    with pytest.raises(ValueError, match=r"^meta must hold names and values, got NoneType$"):
        described(model, None, None, None)
    model.meta, model.provenance = meta(8), {"command": "attnconv train"}
    found = described(model, None, None, None)
    assert (found["model"], found["meta"], found["provenance"]) == ("unet", meta(8), {"command": "attnconv train"})
    own = described(torch.nn.Conv2d(2, 3, 1), meta((8, 9)), None, None)
    assert (own["model"], own["num_classes"], own["image_size"], own["options"]) == (None, 3, [8, 9], {})
    with pytest.raises(ValueError, match=r"^provenance must hold plain values"):
        described(model, None, object(), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "^a file was not written by attnconv export: its metadata hold no 'attnconv'$"),
        ("{", "^a file is damaged: its 'attnconv' cannot be read: Expecting"),
        ("[" * 10**6, "^a file is damaged: its 'attnconv' cannot be read: it is nested more than 100 deep$"),
        ("[1]", "^a file is damaged: its 'attnconv' cannot be read: "),
        ({"image_sizes": {"rows": [0, 3]}}, "^a file is damaged: its 'attnconv' cannot be read: rows must be at least"),
        ({"format": "attnconv 9"}, "^a file describes no network of attnconv that this version reads: .* 'attnconv 9'"),
        ({"meta": None}, "^a file: meta must hold names and values, got NoneType$"),
        ({"meta": {**meta(9), "std": [0.5, 0]}}, "^a file: meta's 'std' must be above 0"),
        ({"provenance": {"scores": 3}}, "^a file: 'provenance.scores' must be dict, got 3$"),
    ],
)
def test_a_config_that_is_damaged(text, message):
    if isinstance(text, dict):
        whole = config_text(described(network("unet", 9), meta(9), None, None), export.Sizes((4, None), (4, 9)))
        text = json.dumps({**json.loads(whole), **text})
    with pytest.raises(ValueError, match=message):
        read_config(text, "a file")


def test_an_unknown_suffix_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"unknown suffix of an exported network '.onx'; nearest: '.onnx'"):
        export.load_exported(tmp_path / "model.onx")


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 2, 3, 8), "cannot take images of this size: it takes 4 or more rows, got 3"), ((1, 3, 8, 8), r"\(B, 2, row")],
)
def test_images_that_the_file_cannot_take(files, suffix, shape, message):
    with pytest.raises(ValueError, match=message):
        export.load_exported(files / f"model{suffix}", trust=True)(torch.randn(shape))


@pytest.mark.parametrize("suffix", [pytest.param(".onnx", marks=slow), ".pt2"])
def test_a_file_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_text("what was here before")
    real = capture.require_agreement
    monkeypatch.setattr(
        capture, "require_agreement", lambda model, call, **more: real(model, lambda x: call(x) + 1, **more)
    )
    write = {".onnx": export.export_onnx, ".pt2": export.export_program}[suffix]
    with pytest.raises(DisagreementError, match=r"differs from PyTorch by 1.0e\+00 of outputs up to"):
        write(network("unet", 8), path, meta=meta(8))
    assert path.read_text() == "what was here before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_free_size_that_fails_becomes_a_fixed_one(tmp_path, monkeypatch):
    real = capture.require_agreement

    def fails_if_free(model, call, *, sizes, **more):
        if sizes.dynamic:
            raise DisagreementError("for a reason")
        return real(model, call, sizes=sizes, **more)

    monkeypatch.setattr(capture, "require_agreement", fails_if_free)
    written = export.export_program(network("unet", 8), tmp_path / "m.pt2", meta=meta(8))
    assert written.notes == ("the image size is fixed; with free rows and columns: for a reason",)
    assert (written.sizes.rows, written.sizes.columns) == ((8, 8), (8, 8))
    with pytest.raises(ValueError, match="it takes 8 rows, got 9"):
        export.load_exported(tmp_path / "m.pt2", trust=True)(torch.randn(1, 2, 9, 8))


def test_a_mistake_of_ours_is_not_taken_for_a_size_that_is_not_free(tmp_path, monkeypatch):
    tried = []

    def mistaken(sizes):
        tried.append(sizes)
        raise KeyError("ours")

    monkeypatch.setattr(capture, "dims", mistaken)
    with pytest.raises(KeyError, match="ours"):
        export.export_program(network("unet", 8), tmp_path / "m.pt2", meta=meta(8))
    assert len(tried) == 1


def cut(path):
    path.write_bytes(path.read_bytes()[:-3000])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_a_bit_of_a_weight(path):
    """ONNX has it as it lies in memory; the file is as good a network as before, but another one."""
    weights = network("unet", 8).state_dict()["head.weight"].numpy().tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(weights) + 6] ^= 1
    path.write_bytes(data)


def rename_a_class(path):
    data = path.read_bytes()
    assert data.count(b'"two"') == 1
    path.write_bytes(data.replace(b'"two"', b'"TWO"'))


def text(path):
    path.write_text("no network")


def drop_the_checksum(path):
    """As whoever unpacks the archive and packs it again."""
    path.write_bytes(path.read_bytes()[: -len(b"attnconv-sha256:") - 64 - 2] + b"\0\0")


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        (".onnx", cut, "is damaged or no ONNX file: "),
        (".onnx", text, "is damaged or no ONNX file: "),
        (".onnx", flip_a_bit_of_a_weight, "is damaged or was changed: its contents do not have the checksum"),
        (".onnx", rename_a_class, "is damaged or was changed: its contents do not have the checksum"),
        (".onnx", lambda path: path.unlink(), "no ONNX file at "),
        (".pt2", cut, "is damaged or no program of torch.export: |is cut short"),
        (".pt2", flip_a_bit, "is damaged or was changed: its contents do not have the checksum"),
        (".pt2", drop_the_checksum, "has lost its checksum: another program has written it anew"),
        (".pt2", text, "is damaged or no program of torch.export: "),
        (".pt2", lambda path: path.unlink(), "no exported program at "),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(files, tmp_path, suffix, change, message):
    path = tmp_path / f"model{suffix}"
    path.write_bytes((files / path.name).read_bytes())
    change(path)
    with pytest.raises(ValueError, match=message) as refused:
        export.load_exported(path, trust=True)
    assert len(str(refused.value).splitlines()) == 1
    assert str(path) in str(refused.value)


def test_files_of_others_are_refused(tmp_path):
    import onnx

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    ])  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "other.onnx")
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "other.pt2")
    for name in ("other.onnx", "other.pt2"):
        with pytest.raises(ValueError, match=f"{name} was not written by attnconv export: its metadata hold no"):
            export.load_exported(tmp_path / name, trust=True)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_program_that_would_run_code_is_refused_before_torch_reads_it(files, tmp_path, attack):
    bad, mark = tmp_path / "bad.pt2", tmp_path / "mark"
    attack(files / "model.pt2", bad, mark)
    for load in (export.load_exported, export.load_program, load_trained):
        with pytest.raises(ValueError, match=r"bad\.pt2 is a program of torch\.export, and reading one can run code"):
            load(bad)
    assert not mark.exists()
    with suppress(Exception):  # and it is the lack of trust that holds it back: with it, the code is run
        export.load_exported(bad, trust=True)(torch.zeros(1, 2, 8, 8))
    assert mark.exists()


@pytest.mark.parametrize("trust", ["yes", 1, None])
def test_trust_is_true_or_false(files, trust):
    with pytest.raises(TypeError, match="trust must be true or false, got "):
        export.load_exported(files / "model.pt2", trust=trust)


def test_an_export_tells_its_stages(tmp_path):
    told = []
    export.export_program(network("unet", 8), tmp_path / "m.pt2", meta=meta(8), tell=told.append)
    assert told == [
        "capturing the network for 4 or more rows, 4 or more columns",
        "writing the program",
        "comparing the program with PyTorch, 5 batches",
    ]


def test_a_file_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    told = []
    with pytest.raises(ValueError, match="cannot write"):
        export.export_program(network("unet", 8), tmp_path / "no" / "m.pt2", meta=meta(8), tell=told.append)
    assert told == []
