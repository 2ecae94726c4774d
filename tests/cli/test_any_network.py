"""Every command on a network of every origin: registered, timm's, torchvision's, of a factory of one's own."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from cli.conftest import picture

from attnconv import extensions
from attnconv.cli import main
from attnconv.recipes.trained import EXAMPLE

explain = import_module("attnconv.cli.explain")

TESTS = str(Path(__file__).parents[1])


@dataclass(frozen=True)
class Origin:
    """The name of a network for a command, and the place of its attention."""

    model: str
    after: str
    imports: list = field(default_factory=list)

    @property
    def again(self):
        """Return the flags that a command needs to read a run of it."""
        own = self.model.startswith("own_networks:")
        return [*self.imports, *(["--model", self.model] if own else [])]


ORIGINS = {
    "registered": Origin("own_small", "1", ["--import", "own_networks"]),
    "timm": Origin("timm:test_resnet", "layer3"),
    "torchvision": Origin("torchvision:shufflenet_v2_x0_5", "stage3"),
    "own factory": Origin("own_networks:small", "1"),
}
DATA = ["--data", "digits", "--train-subset", "64", "--batch-size", "32", "--device", "cpu"]


@dataclass(frozen=True)
class Trained:
    origin: Origin
    run: Path


@pytest.fixture(scope="module", autouse=True)
def nothing_stays_imported():
    """Studies of later tests would import the modules, too."""
    yield
    extensions.imported.clear()


def call(*arguments):
    assert main([str(a) for a in arguments]) == 0


@pytest.fixture(scope="module", params=ORIGINS)
def trained(request, tmp_path_factory):
    origin = ORIGINS[request.param]
    if origin.model.startswith("timm"):
        pytest.importorskip("timm")
    out = tmp_path_factory.mktemp("run") / "run"
    call(
        *("train", "--model", origin.model, *origin.imports, *DATA, "--image-size", "32", "--epochs", "1"),
        *("--attend", f"{origin.after}=simple", "--out", out),
    )
    return Trained(origin, out)


@pytest.fixture
def photo(tmp_path):
    return picture(tmp_path / "photo.png", size=(40, 30))


def answer(capsys, *arguments):
    capsys.readouterr()
    call(*arguments, "--json")
    return json.loads(capsys.readouterr().out)


def test_train_names_what_it_trained(trained):
    config = yaml.safe_load((trained.run / "config.yaml").read_text())
    assert config["model"] == trained.origin.model
    assert config["attention"] == [{"add": {"after": trained.origin.after, "kind": "simple"}}]
    assert "attention_off" in json.loads((trained.run / "result.json").read_text())


def test_resume_ends_in_the_same_bits(trained, tmp_path, interrupted_in_the_second_epoch):
    origin = trained.origin
    settings = [*DATA, "--image-size", "32", "--epochs", "2", "--attend", f"{origin.after}=simple"]
    command = ["train", "--model", origin.model, *origin.imports, *settings]
    call(*command, "--out", tmp_path / "whole")
    with interrupted_in_the_second_epoch():
        assert main([*command, "--out", str(tmp_path / "half")]) == 130
    call("train", "--resume", "--out", tmp_path / "half", *origin.again)
    whole, half = (torch.load(tmp_path / run / "last.pt", weights_only=True)["model"] for run in ("whole", "half"))
    assert whole.keys() == half.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, half[name]), name


def test_evaluate_gives_the_runs_own_score(trained, capsys):
    found = answer(capsys, "evaluate", trained.run, *trained.origin.again, "--device", "cpu")
    result = json.loads((trained.run / "result.json").read_text())
    assert found["top1"] == pytest.approx(result["best_top1"])


def test_another_function_than_the_runs_is_refused(trained, capsys):
    assert main(["evaluate", str(trained.run), *trained.origin.imports, "--model", "own_networks:same"]) == 2
    own = trained.origin.model == "own_networks:small"
    expected = "give --model own_networks:small, got own_networks:same" if own else "is a network by name"
    assert expected in capsys.readouterr().err


def test_of_two_networks_on_a_page_one_may_be_another(trained, monkeypatch):
    monkeypatch.setattr(extensions, "_factories", {})
    monkeypatch.setattr(
        explain,
        "serve_page",
        lambda runs, image, *, grad_cam, host, port, **options: seen.extend(
            explain._trained(run, **options).config.model for run in runs
        ),
    )
    seen = []
    call("explain", "--web", trained.run, "--compare", EXAMPLE, *trained.origin.again, "--device", "cpu")
    assert seen[0] == trained.origin.model
    assert len(seen) == 2


def test_predict_names_a_class(trained, photo, capsys):
    found = answer(capsys, "predict", trained.run, photo, *trained.origin.again, "--device", "cpu")
    assert {entry["class"] for entry in found["predictions"][0]["top"]} <= {str(i) for i in range(10)}


def test_explain_draws_the_layer(trained, photo, tmp_path, capsys):
    options = ["--point", "10,10", "--out", tmp_path / "maps.png", *trained.origin.again, "--device", "cpu"]
    found = answer(capsys, "explain", trained.run, photo, *options)
    assert trained.origin.after in json.dumps(found)
    (query,) = found["images"][0]["queries"]
    drawn = any(min(layer["map_size"]) >= 4 for layer in query["layers"])
    assert (found["picture"] is not None) == (tmp_path / "maps.png").exists() == drawn


def test_export_answers_alike_without_its_code(trained, photo, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    call("export", trained.run, "--out", file, *trained.origin.again)
    own = answer(capsys, "predict", trained.run, photo, *trained.origin.again, "--device", "cpu", "--top", "1")
    other = answer(capsys, "predict", file, photo, "--device", "cpu", "--top", "1")  # nothing is named again
    chances = [found["predictions"][0]["top"][0]["probability"] for found in (own, other)]
    assert chances[0] == pytest.approx(chances[1], abs=1e-5)


def test_a_hub_folder_is_read(trained, photo, tmp_path, capsys):
    call("hub", "save", trained.run, tmp_path / "saved", *trained.origin.again)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["attention"] == [{"add": {"after": trained.origin.after, "kind": "simple"}}]
    found = answer(capsys, "predict", tmp_path / "saved", photo, *trained.origin.again, "--device", "cpu")
    assert found == answer(capsys, "predict", trained.run, photo, *trained.origin.again, "--device", "cpu") | {
        "checkpoint": found["checkpoint"]
    }


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ORIGINS if name != "own factory"]


@pytest.mark.parametrize("name", ["own factory", *OTHERS])
def test_a_study_has_it_as_an_arm(name, tmp_path):
    origin = ORIGINS[name]
    plan = {
        "name": "own",
        "text": "Does attention help?",
        "base": {"model": origin.model, "data": "digits", "train_subset": 64, "batch_size": 32, "epochs": 1},
        "arms": {"plain": {}, "attended": {"attention": [{"add": {"after": origin.after}}]}},
        "baseline": "plain",
        "seeds": 1,
    }
    plan["base"] |= {"image_size": 32, "device": "cpu"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    command = [sys.executable, "-m", "attnconv", "study", "run", "plan.yaml", "--out", "study", *origin.imports]
    shutil.copy(Path(TESTS) / "own_networks.py", tmp_path)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if name == "own factory":
        assert "own_networks:small" in done.stderr + done.stdout  # said, for it is imported
        again = [*command[:5], "study", "--import", "own_networks"]  # the folder, whose plan imports nothing
        done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "imports" not in done.stderr
    records = [json.loads(line) for line in (tmp_path / "study" / "records.jsonl").read_text().splitlines()]
    states = {record["arm"]: record["state"] for record in records}
    assert states == {"plain": "done", "attended": "done"}
    params = {record["arm"]: record["params"] for record in records}
    assert params["plain"] < params["attended"]
