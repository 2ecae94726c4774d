"""Bad input on the command line: one line on stderr, exit code 2, nothing written."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from cli.conftest import TRAIN, picture


def assert_refused(outcome, message):
    code, out, err = outcome
    assert code == 2
    assert out == ""
    assert err.startswith("attnconv: error: ")
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err


BAD_COMMANDS = [
    (["tran"], 'Unknown command "tran". Did you mean "train"'),
    (["train", "--lrr", "1"], "Unknown option: --lrr. Did you mean --lr"),
    (["train", "--lr", "fast"], 'unable to convert "fast" into float'),
    (["train", "--optimizer", "sdg"], '"sdg" for --optimizer.*"sgd".*; nearest: \'sgd\''),
    (["train", "--optimizer", "AdamW"], "\"AdamW\" for --optimizer.*; nearest: 'adamw'"),
    (["train", "--precision", "32"], "\"32\" for --precision.*; nearest: 'fp32'"),
    (["train", "--image-size", "48x"], "image_size must be int, got '48x'; rows and columns are written 128x192"),
    (["train", "--image-size", "0x48"], "image_size must be at least 1, got 0"),
    (["train", "--val-split", "2"], "val_split must be above 0 and below 1, got 2.0"),
    (["train", "--val-split", "0.2"], "'digits' has validation images of its own: leave val_split out"),
    (["train", "--data", "torchvision:SVHM"], "unknown data set of torchvision 'SVHM'; nearest: 'SVHN'"),
    (["train", "--model", "convnet33"], "unknown model 'convnet33'; nearest: 'convnet3'"),
    (["train", "--data", "cifar1000"], "'cifar1000' is neither a data set nor an existing folder; nearest: 'cifar100'"),
    (["train", "--epochs", "0"], "epochs must be at least 1, got 0"),
    (["train", "--lr", "-1"], "lr must be positive and finite, got -1"),
    (["train", "--option", "heads"], "--option must be NAME=VALUE, got 'heads'"),
    (["train", "--option", "num-heads=1", "--option", "num_heads=2"], "--option num_heads is given twice"),
    (["train", "--option", "num_head=4"], "unknown option of aa_convnet3: 'num_head'; nearest: 'num_heads'"),
    (["train", "--option", "num_heads=0"], "num_heads must be at least 1, got 0"),
    (["train", "--option", "num_heads=four"], "num_heads must be an integer, got 'four'"),
    (["train", "--option", "augment=2"], "augment must be a list of stages among 1, 2 and 3, got 2"),
    (["train", "--option", "key_ratio=1/2"], "key_ratio must be a number, got '1/2'"),
    (["train", "--option", "num_classes=5"], "unknown option of aa_convnet3: 'num_classes'"),
    (["train", "--data", "~nobody-here/images"], "neither a data set nor an existing folder"),
    (["summary", "convnet3", "--option", "image_size=5"], "unknown option of convnet3: 'image_size'"),
    (["train", "--image-size", "4"], "at least 8 x 8 pixels"),
    (["train", "--batch-size", "5000"], "batch_size must be at most 1437"),
    (["train", "--resume"], "--resume needs --out"),
    (["train", "--recipe", "imagewof-128-5ep"], "unknown recipe 'imagewof-128-5ep'; nearest: 'imagewoof-128-5ep'"),
    (["lr-find", "--recipe", "cifar100-30epp"], "unknown recipe 'cifar100-30epp'; nearest: 'cifar100-30ep'"),
    (
        ["train", "--recipe", "cifar100-30ep", "--resume", "--out", "run"],
        "--resume takes the run's own config.yaml; .*recipe out",
    ),
    (["train", "--recipe", "cifar100-30ep", "--model", "convnet33"], "unknown model 'convnet33'; nearest: 'convnet3'"),
    (
        ["train", "--recipe", "cifar100-30ep", "--option", "symmetric=true"],
        "unknown option of aa_wide_resnet28_10: 'sym",
    ),
    (
        ["train", "--recipe", "imagenet-100ep"],
        "recipe 'imagenet-100ep' needs --data FOLDER, a folder with train/<class>/",
    ),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: three\n", "config.yaml: epochs must be int, got 'three'"),
        ("model_options: 3\n", "config.yaml: model_options must be dict, got 3"),
    ],
)
def test_a_run_whose_options_are_wrong(attnconv, tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    refused = attnconv("train", "--resume", "--out", tmp_path, "--option", "augment=[1]")
    assert_refused(refused, message)
    assert "command line" not in refused[2]


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
        "train", "--model", "convnet3", "--data", folder, "--image-size", "16", "--epochs", "1", "--batch-size", "2",
        "--workers", "0", "--out", tmp_path / "o",
    )  # fmt: skip
    assert code == 2
    *header, last = err.splitlines()
    assert [line.split()[0] for line in header] == ["network", "data", "images", "steps", "device", "out"]
    assert re.fullmatch(r"attnconv: error: cannot decode image \S*bad\.png: .*; --skip-bad-images .*", last)
    assert not (tmp_path / "o").exists()


def test_a_run_is_not_overwritten(attnconv, finished):
    before = (finished / "last.pt").read_bytes()
    assert_refused(attnconv(*TRAIN, "--out", finished), "already holds a run: give --resume to go on with it")
    assert (finished / "last.pt").read_bytes() == before


def test_a_map_larger_than_the_tables(attnconv, finished):
    message = r"the output map is \(8, 8\), but the position tables cover feat_size=\(4, 4\)"
    assert_refused(attnconv("evaluate", finished, "--image-size", "16"), message)


def test_an_image_size_of_zero(attnconv, finished):
    assert_refused(attnconv("evaluate", finished, "--image-size", "0"), "image_size must be at least 1, got 0")


def test_options_are_yaml(attnconv):
    assert attnconv("summary", "aa_convnet3", "--option", "key_ratio=5e-1", "--option", "position=null")[0] == 0


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
    assert not (tmp_path / "o").exists()  # so that the same command with a smaller rate is not refused


def test_a_failure_of_ours_is_one_line_too(attnconv, monkeypatch):
    monkeypatch.setattr("attnconv.networks.list_models", lambda *_: 1 / 0)
    code, _, err = attnconv("models")
    assert code == 1
    assert err == "attnconv: error: ZeroDivisionError: division by zero (ATTNCONV_TRACEBACK=1 shows where)\n"


@pytest.mark.parametrize("out", ["notes.txt/run", "/proc/run", "/dev/null/run"])
def test_a_folder_that_cannot_be_made(attnconv, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("mine")
    assert_refused(attnconv(*TRAIN, "--out", out), f"cannot make the folder {out}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
