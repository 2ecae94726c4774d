"""The command line as a user meets it: in a process of its own where the exit code counts, in this one elsewhere."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from attnconv.cli import COMMANDS, main

TRAIN = ["train", "--model", "aa_convnet3", "--data", "digits", "--batch-size", "32", "--device", "cpu"]


@pytest.fixture
def attnconv(capsys):
    """Call a command in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as done:
            code = done.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def assert_refused(outcome, message):
    code, out, err = outcome
    assert code == 2
    assert out == ""
    assert err.startswith("attnconv: error: ")
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main([*TRAIN, "--epochs", "2", "--train-subset", "200", "--seed", "1", "--out", str(out)]) == 0
    return out


def picture(path, size=(20, 16), colour=(200, 30, 40)):
    from PIL import Image

    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """train/<class>/* and val/<class>/*: two classes of four images."""
    for part in ("train", "val"):
        for label, colour in (("blue", (10, 20, 200)), ("red", (200, 20, 10))):
            (tmp_path / "images" / part / label).mkdir(parents=True)
            for i in range(4):
                picture(tmp_path / "images" / part / label / f"{i}.png", colour=colour)
    return tmp_path / "images"


def test_help_names_every_command(attnconv):
    code, out, _ = attnconv("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)


def test_version(attnconv):
    assert attnconv("--version")[1].strip() == "0.1.0"


FLAGS = {
    "models": "--json --pattern --table",
    "summary": "--image-size --in-channels --json --model --num-classes --option",
    "train": (
        "--batch-size --config --data --data-dir --device --epochs --image-size --json --label-smoothing --lr --model "
        "--momentum --optimizer --option --out --precision --resume --schedule --seed --skip-bad-images "
        "--train-subset --warmup --weight-decay --workers"
    ),
    "evaluate": (
        "--batch-size --checkpoint --data --data-dir --device --image-size --json --run --skip-bad-images --workers"
    ),
    "predict": "--checkpoint --device --json --skip-bad-images --top",
    "demo": "--device --epochs --out --seed",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_listed_here(attnconv, command):
    _, out, _ = attnconv(command, "--help")
    found = {flag for flag in re.findall(r"--[a-z][a-z0-9-]*", out) if not flag.startswith("--no-")}
    assert found - {"--no-json"} == set(FLAGS[command].split())


def test_models(attnconv):
    _, out, _ = attnconv("models")
    assert "convnet3" in out
    assert "augment=(2, 3)" in out
    _, out, _ = attnconv("models", "aa_*", "--json")
    assert {entry["name"]: entry["options"] for entry in json.loads(out)}["aa_convnet3"]["augment"] == [2, 3]


def test_models_table(attnconv):
    _, out, _ = attnconv("models", "aa_wide_*", "--table")
    assert re.search(r"aa_wide_resnet28_10 +CIFAR-100 +36.05 +36.2 +12.29 +11.40 +10.9 +no: params, FLOPs *\n", out)
    _, out, _ = attnconv("models", "resnet34", "--table", "--json")
    (row,) = json.loads(out)
    assert row["published"] == {
        "name": "resnet34", "data": "ImageNet", "params": "21.8", "gflops": "7.4", "options": {},
    }  # fmt: skip
    assert (row["params"], row["agrees"]) == (21_797_672, "no: FLOPs")


def test_summary(attnconv):
    _, out, _ = attnconv("summary", "aa_convnet3", "--image-size", "32", "--num-classes", "100", "--json")
    found = json.loads(out)
    assert found["flops"] == 2 * found["macs"]
    assert found["paper_flops"] < found["flops"]
    assert [a["map_size"] for a in found["attention"]] == [[16, 16], [8, 8]]
    _, out, _ = attnconv("summary", "aa_convnet3", "--option", "augment=[1]")
    assert "32 x 32" in out
    assert "16.8 MB" in out  # 4 heads of (32 * 32)^2 float32


def test_train_leaves_a_run(finished):
    assert {path.name for path in finished.iterdir()} == {
        "best.pt", "last.pt", "config.yaml", "metrics.csv", "result.json",
    }  # fmt: skip
    result = json.loads((finished / "result.json").read_text())
    promised = "model data epochs seed top1 top5 loss best_top1 best_epoch params seconds device torch commit"
    assert set(promised.split()) <= set(result)
    assert (result["epochs"], result["seed"], result["device"]) == (2, 1, "cpu")


def test_flags_override_the_file(attnconv, tmp_path):
    (tmp_path / "run.yaml").write_text("epochs: 5\ntrain_subset: 64\nmodel_options: {augment: [3]}\nlr: 0.05\n")
    code, _, err = attnconv(
        "train", "--config", tmp_path / "run.yaml", "--epochs", "1", "--batch-size", "32", "--out", tmp_path / "run",
        "--option", "num_heads=2",
    )  # fmt: skip
    assert code == 0, err
    import yaml

    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["epochs"], config["train_subset"], config["lr"], config["seed"]) == (1, 64, 0.05, 0)
    assert config["model_options"] == {"augment": [3], "num_heads": 2}


def test_resume_of_a_finished_run_gives_its_result(attnconv, finished):
    before = (finished / "last.pt").read_bytes()
    code, out, _ = attnconv("train", "--resume", "--out", finished, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((finished / "result.json").read_text())
    assert (finished / "last.pt").read_bytes() == before


def test_evaluate_repeats_the_score_of_the_run(attnconv, finished):
    _, out, _ = attnconv("evaluate", finished, "--checkpoint", "last", "--json", "--device", "cpu")
    scores, result = json.loads(out), json.loads((finished / "result.json").read_text())
    assert scores["count"] == 360
    assert (scores["top1"], scores["top5"]) == pytest.approx((result["top1"], result["top5"]))
    assert scores["loss"] == pytest.approx(result["loss"], rel=1e-5)
    assert "360 images" in attnconv("evaluate", finished)[1]


def test_predict_names_classes(attnconv, finished, tmp_path):
    picture(tmp_path / "a.png")
    code, out, _ = attnconv("predict", finished, tmp_path / "a.png", "--top", "3", "--json")
    assert code == 0
    (prediction,) = json.loads(out)["predictions"]
    chances = [entry["probability"] for entry in prediction["top"]]
    assert len(chances) == 3
    assert chances == sorted(chances, reverse=True)
    assert {entry["class"] for entry in prediction["top"]} <= {str(i) for i in range(10)}
    _, out, _ = attnconv("predict", finished, tmp_path)
    assert "a.png" in out


def test_predict_agrees_with_the_validation_images(attnconv, finished, tmp_path):
    """A digit written to a file is read as the same class that the network gives it in validation."""
    from PIL import Image

    from attnconv.data import load_data
    from attnconv.recipes import load_trained

    data, trained = load_data("digits"), load_trained(finished, device="cpu")
    Image.fromarray(data.val.images[7, 0].numpy()).save(tmp_path / "digit.png")
    _, loader = data.loaders(batch_size=8, seed=0, device=torch.device("cpu"), workers=0)
    images, _ = next(iter(loader.epoch(0)))
    expected = trained.model(images)[7].softmax(-1)
    _, out, _ = attnconv("predict", finished, tmp_path / "digit.png", "--top", "1", "--json", "--device", "cpu")
    best = json.loads(out)["predictions"][0]["top"][0]
    assert best["class"] == str(expected.argmax().item())
    assert best["probability"] == pytest.approx(expected.max().item(), rel=1e-4)


def test_a_folder_of_images_trains_and_predicts(attnconv, folder, tmp_path):
    code, _, err = attnconv(
        "train", "--model", "convnet3", "--data", folder, "--image-size", "16", "--epochs", "1", "--batch-size", "4",
        "--workers", "0", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    _, out, _ = attnconv("predict", tmp_path / "run", folder / "val" / "red", "--json")
    assert len(json.loads(out)["predictions"]) == 4
    code, out, _ = attnconv("evaluate", tmp_path / "run", "--json", "--workers", "0")
    assert json.loads(out)["count"] == 8


def test_skipped_images_are_counted(attnconv, folder, tmp_path):
    (folder / "train" / "red" / "bad.png").write_text("no image")
    (folder / "val" / "red" / "bad.png").write_text("no image")
    code, out, err = attnconv(
        "train", "--model", "convnet3", "--data", folder, "--image-size", "16", "--epochs", "1", "--batch-size", "4",
        "--workers", "0", "--skip-bad-images", "--json", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["skipped_images"] >= 1
    code, out, err = attnconv("predict", tmp_path / "run", folder / "val", "--skip-bad-images", "--json")
    assert len(json.loads(out)["predictions"]) == 8
    assert len(json.loads(out)["skipped_images"]) == 1
    assert "attnconv: skipped: cannot decode image" in err


def test_demo_trains_both_and_writes_the_page(attnconv, tmp_path):
    code, out, err = attnconv("demo", "--out", tmp_path / "demo", "--epochs", "1")
    assert code == 0, err
    assert "convnet3" in out
    assert "aa_convnet3" in out
    text = (tmp_path / "demo" / "report.html").read_text()
    assert text.count("<svg") == 2
    assert "The query is its brightest pixel" in text
    code, again, _ = attnconv("demo", "--out", tmp_path / "demo", "--epochs", "1")
    assert code == 0
    assert "found in" in again


BAD_COMMANDS = [
    (["tran"], 'Unknown command "tran". Did you mean "train"'),
    (["train", "--lrr", "1"], "Unknown option: --lrr. Did you mean --lr"),
    (["train", "--lr", "fast"], 'unable to convert "fast" into float'),
    (["train", "--optimizer", "sdg"], '"sdg" for --optimizer.*"sgd"'),
    (["train", "--model", "convnet33"], "unknown model 'convnet33'; nearest: 'convnet3'"),
    (["train", "--data", "cifar1000"], "'cifar1000' is neither a data set nor an existing folder; nearest: 'cifar100'"),
    (["train", "--epochs", "0"], "epochs must be at least 1, got 0"),
    (["train", "--lr", "-1"], "lr must be positive and finite, got -1"),
    (["train", "--option", "heads"], "--option must be NAME=VALUE, got 'heads'"),
    (["train", "--option", "num_head=4"], "unknown option of aa_convnet3: 'num_head'; nearest: 'num_heads'"),
    (["train", "--option", "num_heads=0"], "num_heads must be at least 1, got 0"),
    (["train", "--option", "num_heads=four"], "num_heads must be an integer, got 'four'"),
    (["train", "--image-size", "4"], "at least 8 x 8 pixels"),
    (["train", "--batch-size", "5000"], "batch_size must be at most 1437"),
    (["train", "--resume"], "--resume needs --out"),
    (["train", "--config", "nothing.yaml"], "no file at nothing.yaml"),
    (["summary", "convnet4"], "unknown model 'convnet4'; nearest: 'convnet3'"),
    (["models", "bb_*"], r"no network matches 'bb_\*'; known: aa_convnet3, aa_resnet101, "),
    (["models", "bb_*", "--table"], r"no published network matches 'bb_\*'; known: aa_resnet101, "),
    (["evaluate", "nowhere"], "nowhere is neither a run folder nor a checkpoint"),
    (["predict", "nowhere", "a.png"], "no image or folder at a.png"),
    (["predict", "nowhere"], "predict needs at least one image or folder"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_COMMANDS, ids=[" ".join(a) for a, _ in BAD_COMMANDS])
def test_bad_commands_get_one_line_and_leave_nothing(attnconv, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert_refused(attnconv(*arguments), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochz: 3\n", "unknown option in .*run.yaml 'epochz'; nearest: 'epochs'"),
        ("epochs: three\n", "run.yaml: epochs must be int, got 'three'"),
        ("- a\n", "run.yaml must hold names and values, got list"),
        ("a: [\n", "cannot read .*run.yaml"),
        ("epochs: !!python/object/apply:os.system ['touch hacked']\n", "cannot read .*run.yaml"),
    ],
)
def test_bad_files_of_options(attnconv, tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(text)
    assert_refused(attnconv("train", "--config", "run.yaml"), message)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_a_folder_without_train(attnconv, folder, tmp_path):
    shutil.rmtree(folder / "train")
    assert_refused(attnconv("train", "--data", folder, "--out", tmp_path / "o"), "has no train/; expected")
    assert not (tmp_path / "o").exists()


def test_an_empty_class(attnconv, folder, tmp_path):
    (folder / "train" / "green").mkdir()
    assert_refused(attnconv("train", "--data", folder, "--out", tmp_path / "o"), "green")
    assert not (tmp_path / "o").exists()


def test_a_validation_class_that_train_lacks(attnconv, folder, tmp_path):
    (folder / "val" / "red").rename(folder / "val" / "green")
    assert_refused(attnconv("train", "--data", folder, "--out", tmp_path / "o"), "classes that train lacks: green")
    assert not (tmp_path / "o").exists()


def test_an_image_that_cannot_be_decoded(attnconv, folder, tmp_path):
    (folder / "val" / "red" / "bad.png").write_text("no image")
    code, _, err = attnconv(
        "train", "--model", "convnet3", "--data", folder, "--image-size", "16", "--epochs", "1", "--batch-size", "4",
        "--workers", "0", "--out", tmp_path / "o",
    )  # fmt: skip
    assert code == 2
    assert re.fullmatch(r"attnconv: error: cannot decode image \S*bad\.png: .*; --skip-bad-images .*\n", err)


def test_a_run_is_not_overwritten(attnconv, finished):
    before = (finished / "last.pt").read_bytes()
    assert_refused(attnconv(*TRAIN, "--out", finished), "already holds a run: give --resume to go on with it")
    assert (finished / "last.pt").read_bytes() == before


def test_a_map_larger_than_the_tables(attnconv, finished):
    message = r"the output map is \(8, 8\), but the position tables cover feat_size=\(4, 4\)"
    assert_refused(attnconv("evaluate", finished, "--image-size", "16"), message)


def test_data_with_other_classes(attnconv, finished, folder):
    assert_refused(attnconv("evaluate", finished, "--data", folder), "'blue' is not among them")


@pytest.mark.parametrize("keep", [0, 10, 1000, 20_000])
def test_a_checkpoint_cut_short(attnconv, finished, tmp_path, keep):
    cut = tmp_path / "cut.pt"
    cut.write_bytes((finished / "best.pt").read_bytes()[:keep])
    picture(tmp_path / "a.png")
    assert_refused(attnconv("predict", cut, tmp_path / "a.png"), re.escape(str(cut)))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_checkpoint_that_holds_code(attnconv, finished, tmp_path):
    state = torch.load(finished / "best.pt", weights_only=True)
    torch.save({**state, "meta": Bomb(tmp_path / "hacked")}, tmp_path / "bomb.pt")
    picture(tmp_path / "a.png")
    message = "holds something other than tensors and plain values"
    assert_refused(attnconv("predict", tmp_path / "bomb.pt", tmp_path / "a.png"), message)
    assert not (tmp_path / "hacked").exists()


def test_a_checkpoint_of_another_network(attnconv, finished, tmp_path):
    state = torch.load(finished / "best.pt", weights_only=True)
    state["config"]["model"] = "convnet3"
    torch.save(state, tmp_path / "other.pt")
    assert_refused(attnconv("evaluate", tmp_path / "other.pt"), "is a checkpoint of 'convnet3'")


def test_a_loss_that_is_not_finite(attnconv, tmp_path):
    code, _, err = attnconv(*TRAIN, "--epochs", "2", "--lr", "1e30", "--schedule", "constant", "--out", tmp_path / "o")
    assert code == 2
    last = err.splitlines()[-1]
    assert re.match(r"attnconv: error: .*\b(nan|inf)\b.* step \d+", last), last
    assert "1e+30" in last
    assert "none yet" in last


def test_a_failure_of_ours_is_one_line_too(attnconv, monkeypatch):
    monkeypatch.setattr("attnconv.models.list_models", lambda *_: 1 / 0)
    code, _, err = attnconv("models")
    assert code == 1
    assert err == "attnconv: error: ZeroDivisionError: division by zero (ATTNCONV_TRACEBACK=1 shows where)\n"


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process group")
def test_ctrl_c_saves_the_run_and_resume_ends_it(tmp_path):
    """Interrupted in the middle of an epoch, the resumed run ends in the same bits as one never interrupted."""
    command = [sys.executable, "-c", "import sys; from attnconv.cli import main; sys.exit(main())"]
    settings = ["--epochs", "40", "--train-subset", "640"]
    run = subprocess.Popen(
        [*command, *TRAIN, *settings, "--out", str(tmp_path / "run")],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert run.stderr is not None
    assert run.stderr.readline().startswith("epoch 1/40")
    time.sleep(0.2)
    os.killpg(run.pid, signal.SIGINT)
    rest = run.stderr.read()
    assert run.wait(60) == 130
    assert rest.splitlines()[-1] == "attnconv: error: interrupted"
    stopped = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert stopped["epoch"] < 40
    assert not (tmp_path / "run" / "result.json").exists()

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, "train", "--resume", "--out", str(tmp_path / "run")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    whole = subprocess.run([*command, *TRAIN, *settings, "--out", str(tmp_path / "whole")], capture_output=True)
    assert whole.returncode == 0
    one, other = (torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("run", "whole"))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
