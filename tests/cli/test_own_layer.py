"""The layer of docs/own-layer.md: one file and its registration are all that every command needs."""

import ast
import json
import subprocess
import sys

import pytest
import torch
import yaml
from cli.conftest import picture
from docs.blocks import ROOT, blocks_of

from attnconv import extensions
from attnconv.bench.layers import builders
from attnconv.cli import main
from attnconv.layers import registry

PAGE = ROOT / "docs" / "own-layer.md"
FILE = next(block.text for block in blocks_of(PAGE.read_text(), PAGE.name) if block.language == "python")
IMPORT = ["--import", "cosine"]
DATA = {"data": "digits", "train_subset": 64, "batch_size": 32, "epochs": 1, "device": "cpu"}
STEP, OTHER = ({"add": {"after": f"layer{i}", "kind": kind}} for i, kind in ((2, "cosine"), (1, "timm:se")))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with the layer's file and a network trained with it and one of timm's; its name is then forgotten."""
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("own")
    (folder / "cosine.py").write_text(FILE)
    picture(folder / "photo.png", size=(40, 30))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_REGISTERED", {k: v for k, v in registry._REGISTERED.items() if k != "cosine"})
        patch.setattr(extensions, "imported", [])
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        flags = [word for name, value in DATA.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        call(
            "train",
            *IMPORT,
            "--model",
            "convnet3",
            "--attend",
            "layer2=cosine",
            "--attend",
            "layer1=timm:se",
            *flags,
            "--out",
            "run",
        )
        yield folder
    sys.modules.pop("cosine", None)


def call(*arguments):
    assert main([str(a) for a in arguments]) == 0


def answer(capsys, *arguments):
    capsys.readouterr()
    call(*arguments, "--json")
    return json.loads(capsys.readouterr().out)


def test_it_is_short():
    assert sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(FILE))) < 30


def test_it_was_trained_and_watched(here):
    off = json.loads((here / "run" / "result.json").read_text())["attention_off"]
    assert off["logits_moved"] > 0
    header = (here / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"attention_share layer1.attention", "attention_share layer2.attention"} <= set(header)


def test_a_run_is_evaluated_and_without_its_import_refused_in_one_line(here, capsys):
    found = answer(capsys, "evaluate", "run", *IMPORT)
    assert found["top1"] == pytest.approx(json.loads((here / "run" / "result.json").read_text())["best_top1"])
    done = subprocess.run(
        [sys.executable, "-m", "attnconv", "evaluate", "run"], cwd=here, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "unknown attention layer 'cosine'" in done.stderr
    assert "--import MODULE" in done.stderr


def test_it_is_costed(here, capsys):
    found = answer(capsys, "summary", "convnet3", "--attend", "layer2=cosine", *IMPORT, "--image-size", "32")
    plain = answer(capsys, "summary", "convnet3", "--image-size", "32")
    assert [(one["name"], one["num_heads"]) for one in found["attention"]] == [("layer2.attention", 1)]
    assert found["macs"] > plain["macs"] + found["attention"][0]["product_macs"]
    assert "cosine" in builders()


def test_it_is_explained(here, capsys):
    found = answer(capsys, "explain", "run", "photo.png", *IMPORT, "--point", "9,9", "--out", "maps.png")
    assert found["images"][0]["without_map"] == ["layer1.attention"]
    (layer,) = found["images"][0]["queries"][0]["layers"]
    assert layer["layer"] == "layer2.attention"
    assert layer["gamma"] is not None
    assert torch.tensor(layer["heads"][0]["weights"]).sum().item() == pytest.approx(1, abs=1e-3)


def test_a_layer_without_a_map_is_named_in_a_sentence(here, capsys):
    assert main(["explain", "run", "photo.png", *IMPORT, "--point", "9,9", "--out", "maps.png"]) == 2
    assert "nothing to draw: layer2.attention has 2 x 2 cells" in capsys.readouterr().err
    found = answer(capsys, "explain", "run", "photo.png", *IMPORT, "--point", "9,9")
    assert found["images"][0]["without_map"] == ["layer1.attention"]


def test_it_is_exported_and_read_without_its_code(here, capsys):
    pytest.importorskip("onnxruntime")
    call("export", "run", "--out", "model.onnx", *IMPORT)
    given = ("photo.png", "--device", "cpu", "--top", "1")
    own, other = answer(capsys, "predict", "run", *IMPORT, *given), answer(capsys, "predict", "model.onnx", *given)
    chances = [found["predictions"][0]["top"][0]["probability"] for found in (own, other)]
    assert chances[0] == pytest.approx(chances[1], abs=1e-5)


def test_it_is_saved_for_the_hub_with_its_citation(here, capsys):
    call("hub", "save", "run", "saved", *IMPORT)
    assert json.loads((here / "saved" / "config.json").read_text())["attention"] == [STEP, OTHER]
    card = (here / "saved" / "README.md").read_text()
    sources = card.partition("## Sources")[2]
    assert "arXiv:2111.09883" in sources
    assert "timm's se: squeeze-excitation, Hu et al. 2018, [arXiv:1709.01507]" in sources
    found = answer(capsys, "predict", "saved", "photo.png", *IMPORT)
    assert found["predictions"] == answer(capsys, "predict", "run", "photo.png", *IMPORT)["predictions"]


def test_a_study_compares_it(here):
    arms = {
        "plain": {},
        "cosine": {"attention": [STEP]},
        "se": {"attention": [{"add": {"after": "layer2", "kind": "timm:se"}}]},
    }
    plan = {
        "name": "own",
        "text": "?",
        "base": {"model": "convnet3", **DATA},
        "arms": arms,
        "baseline": "plain",
        "seeds": 1,
    }
    (here / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    command = [sys.executable, "-m", "attnconv", "study", "run", "plan.yaml", "--out", "study", *IMPORT]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (here / "study" / "records.jsonl").read_text().splitlines()]
    assert [(one["arm"], one["state"]) for one in records] == [(arm, "done") for arm in arms]
    assert all(("attention_off" in one) == (one["arm"] != "plain") for one in records)
