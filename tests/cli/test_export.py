"""attnconv export, and predict and evaluate on what it writes."""

import json
import re
import sys

import pytest
import torch
from cli.conftest import TRAIN, picture
from cli.test_bad_input import assert_refused
from export.hostile_programs import ATTACKS

from attnconv import surgery
from attnconv.cli import main
from attnconv.export import export_program
from attnconv.models import create_model
from attnconv.recipes import load_trained

needs_onnx = pytest.mark.usefixtures("onnx")


@pytest.fixture
def onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs attnconv[onnx]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "run"
    settings = ["--epochs", "1", "--train-subset", "320", "--option", "augment=[3]", "--out", str(out)]
    assert main([*TRAIN, *settings]) == 0
    return out


@pytest.fixture(scope="module")
def program(run):
    assert main(["export", str(run), "--format", "torch"]) == 0
    return run / "model.pt2"


def chances(attnconv, network, image):
    trust = ["--trust"] if str(network).endswith(".pt2") else []
    code, out, err = attnconv("predict", network, image, "--json", "--top", "10", "--device", "cpu", *trust)
    assert code == 0, err
    (found,) = json.loads(out)["predictions"]
    return {entry["class"]: entry["probability"] for entry in found["top"]}


@needs_onnx
def test_onnx_from_run_to_prediction_and_score(attnconv, run, tmp_path):
    code, out, err = attnconv("export", run)
    assert code == 0, err
    assert re.search(r"model.onnx: \d\.\d\d MB; any batch, 8 to 11 rows, 8 to 11 columns\nopset \d+\n", out)
    assert re.search(r"largest difference from PyTorch in 5 cases: \d\.\de-\d\d of outputs up to \d", out)
    image = picture(tmp_path / "a.png")
    file = run / "model.onnx"
    assert chances(attnconv, file, image) == pytest.approx(chances(attnconv, run, image), abs=1e-5)
    scores, own = (json.loads(attnconv("evaluate", f, "--json", "--device", "cpu")[1]) for f in (file, run))
    assert {**scores, "checkpoint": "", "loss": 0} == {**own, "checkpoint": "", "loss": 0}
    assert scores["loss"] == pytest.approx(own["loss"], rel=1e-4)
    assert_refused(attnconv("evaluate", file, "--image-size", "12"), "it takes 8 to 11 rows, got 12")
    assert_refused(
        attnconv("export", file),
        "model.onnx is a program of operators, without layers; export take",
    )
    for command in (("explain", file, image), ("hub", "save", file, tmp_path / "shared")):
        assert_refused(attnconv(*command), f"without layers; {command[0]} takes a run, a checkpoint or a folder of")
    assert_refused(attnconv("predict", file, image, "--device", "cuda"), "model.onnx runs on the CPU here; --device cu")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(file.read_bytes()[:5000])
    assert_refused(attnconv("predict", damaged, image), "damaged.onnx is damaged or no ONNX file")


def test_a_program_and_weights(attnconv, run, program, tmp_path):
    image = picture(tmp_path / "a.png")
    expected = chances(attnconv, run, image)
    code, _, err = attnconv("export", run, "--format", "safetensors")
    assert code == 0, err
    for file in (program, run / "saved"):
        assert chances(attnconv, file, image) == pytest.approx(expected, abs=1e-5)
    words = ["--format", "safetensors", "--json", "--out", tmp_path / "again"]
    code, out, err = attnconv("export", run / "saved", *words)
    assert code == 0, err
    assert json.loads(out)["file"] == str(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (run / "saved" / name).read_bytes()
    message = "saved is the network itself, and would be overwritten; --out names another"
    assert_refused(attnconv("export", run / "saved", "--format", "safetensors", "--out", run / "saved"), message)
    message = "model.safetensors holds weights alone; give the folder that holds it and config.json"
    assert_refused(attnconv("predict", run / "saved" / "model.safetensors", image), message)


@needs_onnx
def test_no_file_names_the_folder_of_its_images(attnconv, folder, tmp_path):
    pytest.importorskip("huggingface_hub")
    run, sets = tmp_path / "run", ["--data-dir", str(tmp_path / "sets"), "--image-size", "8", "--workers", "0"]
    train = ["train", "--model", "convnet3", "--data", str(folder), *sets, "--epochs", "1", "--batch-size", "4"]
    assert attnconv(*train, "--device", "cpu", "--out", run)[0] == 0
    assert str(tmp_path).encode() in (run / "best.pt").read_bytes()
    for form in ("onnx", "torch", "safetensors"):
        assert attnconv("export", run, "--format", form)[0] == 0
    shared = [run / "model.onnx", run / "model.pt2", *(run / "saved").iterdir()]
    assert len(shared) == 5
    for path in shared:
        assert str(tmp_path).encode() not in path.read_bytes(), path
        network = path.parent if path.parent.name == "saved" else path
        message = "does not say in which folder its images are; --data names it"
        assert_refused(attnconv("evaluate", network, "--trust"), message)
    code, out, _ = attnconv("evaluate", run / "saved", "--data", folder, "--workers", "0", "--json")
    assert (code, json.loads(out)["count"]) == (0, 8)


@pytest.fixture
def resized(tmp_path):
    """A folder of `save_pretrained`, of a network for 16 x 16 digits whose tables were then resized to 32 x 32."""
    model = create_model("aa_convnet3", num_classes=10, in_channels=1, image_size=16)
    surgery.resize_feat_size(model, 32)
    model.meta = {
        "name": "digits", "classes": list("0123456789"), "channels": 1, "image_size": [16, 16],
        "mean": [0.3], "std": [0.4], "resize_ratio": 1.0,
    }  # fmt: skip
    pytest.importorskip("huggingface_hub")
    model.save_pretrained(tmp_path / "resized")
    return tmp_path / "resized"


@pytest.mark.slow
def test_a_resized_network_becomes_a_program(attnconv, resized, tmp_path):
    code, _, err = attnconv("export", resized, "--format", "torch", "--out", tmp_path / "m.pt2")
    assert code == 0, err
    assert sum(chances(attnconv, tmp_path / "m.pt2", picture(tmp_path / "a.png")).values()) == pytest.approx(1)


def test_a_resized_network_is_exported_and_used(attnconv, resized, tmp_path):
    image, own = picture(tmp_path / "a.png"), load_trained(resized, device="cpu").model.state_dict()
    words = ["--format", "safetensors", "--out", tmp_path / "m", "--image-size", "32"]
    code, _, err = attnconv("export", resized, *words)
    assert code == 0, err
    assert sum(chances(attnconv, tmp_path / "m", image).values()) == pytest.approx(1)
    torch.testing.assert_close(load_trained(tmp_path / "m", device="cpu").model.state_dict(), own, rtol=0, atol=0)
    score = ["evaluate", tmp_path / "m", "--data", "digits", "--image-size", "32", "--device", "cpu", "--json"]
    code, out, err = attnconv(*score)
    assert (code, json.loads(out or "{}").get("count")) == (0, 360), err
    code, _, err = attnconv("explain", tmp_path / "m", image, "--out", tmp_path / "a.svg", "--device", "cpu")
    assert code == 0, err


def test_a_file_that_names_no_data_is_scored_on_none_unasked(attnconv, tmp_path):
    meta = {"classes": ["a", "b"], "channels": 1, "image_size": 8, "mean": [0.5], "std": [0.5], "resize_ratio": 1}
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    export_program(network, tmp_path / "own.pt2", meta=meta)
    message = "own.pt2 does not say in which folder its images are; --data names it"
    assert_refused(attnconv("evaluate", tmp_path / "own.pt2", "--trust"), message)
    assert_refused(
        attnconv("evaluate", tmp_path / "own.pt2", "--trust", "--data", "digits"), "'digits' has 10 classes, the networ"
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--int8",
            "attnconv export --int8 was removed; quantise the ONNX file with onnxruntime, as docs/export.md show",
        ),
        ("--measure", "attnconv export --measure was removed; use `attnconv bench models`"),
        ("--no-measure", "attnconv export --no-measure was removed; nothing is measured any more, leave it out"),
        ("--data-dir=x", "attnconv export --data-dir was removed; it was for --int8, leave it out"),
    ],
)
def test_a_removed_flag_says_what_to_use(attnconv, run, flag, message):
    assert_refused(attnconv("export", run, flag), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onxn"], 'Invalid value "onxn" for --format'),
        (["--format", "safetensor"], "nearest: 'safetensors'"),
        (["--format", "torch", "--out", "model.onnx"], "--out must end in .pt2 for --format torch, got model.onnx"),
        (
            ["--format", "torch", "--image-size", "32"],
            r"larger than the position tables: layer 'layer3.0' gets a map of \(8, 8\) and its tables cover "
            r"feat_size=\(2, 2\); attnconv.surgery.resize_feat_size\(model, \(32, 32\)\) fits all tables",
        ),
        (["--format", "safetensors", "--image-size", "32"], "larger than the position tables: layer 'layer3.0' gets"),
        (["--format", "torch", "--image-size", "4"], "at least 8 x 8 pixels"),
        (["--format", "torch", "--out", "nowhere/model.pt2"], "cannot write nowhere/model.pt2: No such file"),
    ],
)
def test_bad_input(attnconv, run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert_refused(attnconv("export", run, *arguments), message)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_ours(attnconv, tmp_path):
    image = picture(tmp_path / "a.png")
    (tmp_path / "other.pt2").write_text("something else")
    assert_refused(attnconv("predict", tmp_path / "other.pt2", image, "--trust"), "other.pt2 is damaged or no ")
    assert_refused(
        attnconv("predict", tmp_path / "no.pt2", image), r"no\.pt2 is neither a run folder nor a checkpoint: there is"
    )
    torch.save({"a": 1}, tmp_path / "other.pt2")
    assert_refused(
        attnconv("predict", tmp_path / "other.pt2", image, "--trust"), "other.pt2 is damaged or no program of torch"
    )


def test_a_program_is_read_only_with_trust(attnconv, run, program, tmp_path):
    image, mark = picture(tmp_path / "a.png"), tmp_path / "mark"
    for attack in ATTACKS:
        bad = tmp_path / f"{attack.__name__}.pt2"
        attack(program, bad, mark)
        for command in (
            ["evaluate", bad],
            ["predict", bad, image],
            ["explain", bad, image],
            ["explain", "--example", "--web", "--compare", bad],
            ["export", bad],
            ["hub", "save", bad, tmp_path / "saved"],
        ):
            assert_refused(
                attnconv(*command), r"reading one can run code that is in it: .* with --trust \(of evaluate an"
            )
    assert not mark.exists()


def test_a_missing_extra_is_named(attnconv, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert_refused(attnconv("export", run), r"this needs onnxscript: pip install 'attnconv\[onnx\]'")
