"""Classes, folders and files whose names hold what a terminal obeys, a page runs or no encoder takes."""

import ast
import json
import os
import re
import shutil
import unicodedata

import pytest
import torch
from cli.conftest import picture
from cli.test_bad_input import assert_refused
from docs.blocks import ROOT

from attnconv.models import create_model
from attnconv.recipes import load_trained

ALLOWED = ("__version__", "f'{address} (Ctrl-C ends it)'")  # an address of this machine
NAMES = [
    "[link=http:a]x",
    "[red]x",
    "\x1b[31mred\x1b[0m",
    "a\nb: # `c` | d",
    "<img src=x onerror=alert(1)>",
    "\u202egnp\u2066",
    os.fsdecode(b"caf\xe9\xff"),
]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A folder of images with these classes, itself called in this way."""
    folder = tmp_path_factory.mktemp("names") / os.fsdecode(b"pets\x1b[2J\xff")
    for part in ("train", "val"):
        for number, name in enumerate(NAMES):
            (folder / part / name).mkdir(parents=True)
            for i in range(2):
                picture(folder / part / name / f"{i}.png", colour=(30 * number, 200, 10 * i))
    return folder


@pytest.fixture(scope="module")
def run(pets):
    from attnconv.cli import main

    out = pets.parent / os.fsdecode(b"run\n\xfe")
    train = ["train", "--model", "aa_convnet3", "--data", str(pets), "--image-size", "8", "--batch-size", "7"]
    assert main([*train, "--epochs", "1", "--workers", "0", "--device", "cpu", "--out", str(out)]) == 0
    return out


def require_harmless(text, lines=None):
    text.encode()  # which no lone surrogate survives
    wrong = {unicodedata.category(letter) for letter in text if letter != "\n"} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not wrong, ascii(text)
    if lines is not None:
        assert len(text.splitlines()) == lines, ascii(text)


def test_the_classes_are_the_folders_names(run):
    assert load_trained(run, device="cpu").meta["classes"] == sorted(NAMES)


def test_train_and_resume_show_them_escaped(attnconv, run):
    code, out, err = attnconv("train", "--resume", "--out", run)
    assert code == 0, err
    require_harmless(out, lines=1)
    assert r"/run\n\udcfe: top-1" in out
    require_harmless(err)


def test_predict(attnconv, run, tmp_path):
    image = picture(tmp_path / "a\x1b]0;title\x07\udcff.png")
    code, out, err = attnconv("predict", run, image, "--top", "7", "--device", "cpu")
    assert code == 0, err
    require_harmless(out)
    for name in (r"a\x1b]0;title\x07\udcff.png", r"\x1b[31mred\x1b[0m", "[link=http:a]x", "[red]x", r"\u202egnp\u2066"):
        assert name in out
    assert r"caf\udce9\udcff" in out
    code, out, err = attnconv("predict", run, image, "--top", "7", "--json", "--device", "cpu")
    require_harmless(out)
    (found,) = json.loads(out)["predictions"]
    assert (found["image"], {entry["class"] for entry in found["top"]}) == (str(image), set(NAMES))


def test_what_is_skipped_is_named_in_one_line(attnconv, run, tmp_path):
    images = [picture(tmp_path / "a.png"), tmp_path / "b\n\x1b[2K\udcff.png"]
    images[1].write_text("nothing")
    code, out, err = attnconv("predict", run, *images, "--skip-bad-images", "--device", "cpu")
    assert code == 0, err
    require_harmless(out)
    require_harmless(err, lines=1)
    assert r"b\n\x1b[2K\udcff.png: it is no image" in err
    assert_refused(attnconv("predict", run, images[1]), r"b\\n\\x1b\[2K\\udcff\.png: it is no image")


def test_evaluate_explain_and_runs(attnconv, run, pets, tmp_path):
    image = picture(tmp_path / "\x1b[1m\udcff$.png")
    for command in (
        ["evaluate", run, "--workers", "0"],
        ["explain", run, image, "--out", tmp_path / "\x07\udcff.svg"],
        ["runs", run.parent],
    ):
        code, out, err = attnconv(*command)
        assert code == 0, err
        require_harmless(out)
        assert r"\ud" in out
    drawn = (tmp_path / "\x07\udcff.svg").read_text(encoding="utf-8")
    require_harmless(drawn)
    assert r"\x1b[1m\udcff$.png" in drawn  # in a comment beside the outlines of its letters


def test_notes_about_a_folder(attnconv, run, pets):
    unused = pets / os.fsdecode(b"old\x1b[2J\n\xff")
    unused.mkdir()
    picture(unused / "0.png")
    code, out, err = attnconv("evaluate", run, "--data", pets, "--workers", "0")
    assert code == 0, err
    require_harmless(out)
    require_harmless(err, lines=1)
    assert r"1 in old\x1b[2J\n\udcff/, which is not used" in err
    shutil.rmtree(unused)


def test_import(attnconv, tmp_path):
    pytest.importorskip("safetensors")
    file, out = tmp_path / "w\n\x1b[2J.pth", tmp_path / os.fsdecode(b"out\x1b[1m\xfe")
    torch.save(create_model("xresnet18", num_classes=2, image_size=32).state_dict(), file)
    code, printed, err = attnconv("import", file, "--as", "xresnet18", "--out", out)
    assert code == 0, err
    require_harmless(printed, lines=4)
    assert r"/out\x1b[1m\udcfe: config.json" in printed
    assert r"/w\n\x1b[2J.pth: " in printed


def test_commands_print_through_one_door():
    """Only `attnconv.cli.terminal`, which escapes, prints text that is not escaped already."""
    commands = [file for file in (ROOT / "src/attnconv/cli").glob("*.py") if file.name != "terminal.py"]
    calls = [node for file in commands for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    printed = [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) == "print" and call.args]
    assert len(commands) > 10
    assert printed
    assert [
        text for text in printed if text not in ALLOWED and "{shown(" not in text and "shown_lines(" not in text
    ] == []


def test_errors_are_one_line(attnconv, run, tmp_path):
    name = "x\n\x1b[2J\u202e\udcff"
    for command in (
        ["predict", run, tmp_path / name],
        ["train", "--data", name],
        ["train", "--config", tmp_path / name],
        ["evaluate", run, "--data", str(tmp_path / name)],
        ["train", f"--{name}"],
    ):
        outcome = attnconv(*command)
        assert_refused(outcome, r"x(\\n| )\\x1b\[2J\\u202e\\udcff")
        require_harmless(outcome[2], lines=1)


def test_a_failure_of_ours_is_one_line(attnconv, monkeypatch):
    import attnconv.cli.models as command

    def fail(*_, **__):
        raise RuntimeError("\x1b[31ma\nb")

    monkeypatch.setattr(command, "print_table", fail)
    monkeypatch.setattr(command, "print_json", fail)
    monkeypatch.delenv("ATTNCONV_TRACEBACK", raising=False)
    code, _, err = attnconv("models", "--json")
    assert code == 1
    assert err == "attnconv: error: RuntimeError: \\x1b[31ma (ATTNCONV_TRACEBACK=1 shows where)\n"


def test_a_saved_network_keeps_its_classes_and_its_card_shows_them(attnconv, run, tmp_path):
    pytest.importorskip("huggingface_hub")
    code, out, err = attnconv("hub", "save", run, tmp_path / "saved\x1b\u202e")
    assert code == 0, err
    require_harmless(out, lines=1)
    saved = tmp_path / "saved\x1b\u202e"
    config = (saved / "config.json").read_bytes().decode("utf-8")
    require_harmless(config)
    assert json.loads(config)["meta"]["classes"] == sorted(NAMES)
    assert load_trained(saved, device="cpu").meta["classes"] == sorted(NAMES)
    card = (saved / "README.md").read_bytes().decode("utf-8")
    require_harmless(card)
    (classes,) = re.findall("^Classes: (.*)$", card, re.MULTILINE)
    assert r"\<img src=x onerror=alert(1)\>" in classes
    assert r"\[red\]x" in classes
    assert r"caf\\udce9\\udcff" in classes
    assert r"a\\nb: # \`c\` \| d" in classes
    assert "<img" not in card.replace(r"\<", "")
    code, out, err = attnconv("hub", "save", saved, tmp_path / "again")
    assert code == 0, err
    assert (tmp_path / "again" / "config.json").read_text() == config


@pytest.mark.parametrize(
    ("form", "suffix"),
    [
        ("safetensors", ""),
        pytest.param("torch", ".pt2", marks=pytest.mark.slow),
        pytest.param("onnx", ".onnx", marks=pytest.mark.slow),
    ],
)
def test_exported_files_keep_them(attnconv, run, tmp_path, form, suffix):
    if form == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    path = tmp_path / f"m\x1b{suffix}"
    code, out, err = attnconv("export", run, "--format", form, "--out", path)
    assert code == 0, err
    require_harmless(out)
    assert load_trained(path, device="cpu", trust=True).meta["classes"] == sorted(NAMES)
