"""The command line as a user meets it: in a process of its own where the exit code counts, in this one elsewhere."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from cli.conftest import TRAIN, picture

from attnconv.cli import COMMANDS


def test_help_names_every_command(attnconv):
    code, out, _ = attnconv("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)


def test_version(attnconv):
    assert attnconv("--version")[1].strip() == "0.1.0"


RUN_FLAGS = (
    "--accumulate --amp --attend --attention --augment --base-momentum --batch-size --cache-images --channels-last "
    "--checkpoint-steps "
    "--clip --compile --config --crop-scale --cutmix --data --data-dir --device --devices --ema --epochs "
    "--freeze-epochs --image-size --init-from --json --label-smoothing --lr --max-momentum --mixup --model "
    "--momentum --nodes --on-nan --optimizer --option --out --precision --presize --pretrained --random-erasing "
    "--recipe --recompute-attention --schedule --seed --skip-bad-images --sync-batchnorm --track --train-subset "
    "--trivial-augment --val-split --warmup --weight-decay --workers --no-cache-images --no-channels-last --no-compile "
    "--no-presize --no-recompute-attention --no-skip-bad-images --no-sync-batchnorm --no-trivial-augment"
)
FLAGS = {
    "models": "--json --pattern --table",
    "summary": "--attend --attention --augment --image-size --in-channels --json --model --num-classes --option",
    "train": f"{RUN_FLAGS} --list-recipes --profile --resume",
    "lr-find": f"{RUN_FLAGS} --high --low --steps --list-recipes",  # the last in the text of --recipe
    "evaluate": (
        "--batch-size --checkpoint --data --data-dir --device --image-size --json --model --run "
        "--skip-bad-images --trust --workers"
    ),
    "predict": "--checkpoint --device --json --model --skip-bad-images --top --trust",
    "explain": (
        "--checkpoint --compare --device --example --grad-cam --head --host --json --layer --model "
        "--out --point --port --web"
    ),
    "export": "--checkpoint --format --image-size --json --model --out",
    "import": "--as --average --classes --data --data-dir --image-size --mean --option --out --std",
    "study": "",  # those of its commands: test_study.py
    "bench": (  # those of its commands: test_bench.py
        "--backward --device --dtype --explain-choice --json --key-dim --map-size --no-backward --no-positions "
        "--positions --value-dim"
    ),
    "runs": "--folder --json",
    "hub": "",  # those of its commands: test_hub.py
    "doctor": "--json",
    "demo": "--device --epochs --out --seed",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_listed_here(attnconv, command):
    _, out, _ = attnconv(command, "--help")
    found = set(re.findall(r"--[a-z][a-z0-9-]*", out[out.find("╭") :]))  # below the description
    assert found == {"--import", *FLAGS[command].split()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tar"], "attnconv tar was removed; use cat"),
        (["tar", "x", "--out", "y"], "attnconv tar was removed; use cat"),
        (["runs", "folder", "--tail"], "attnconv runs --tail was removed; use watch"),
        (["runs", "--tail=3"], "attnconv runs --tail was removed; use watch"),
        (["bench", "disk", "--out", "x"], "attnconv bench disk was removed; use dd"),
    ],
)
def test_a_removed_command_or_flag_says_what_to_use(attnconv, monkeypatch, arguments, message):
    monkeypatch.setattr("attnconv.cli.REMOVED", {"tar": "use cat", "runs --tail": "use watch", "bench disk": "use dd"})
    assert attnconv(*arguments) == (2, "", f"attnconv: error: {message}\n")
    assert attnconv("models")[0] == 0
    assert "no folder at disk" in attnconv("bench", "report", "disk")[2]  # which only names a folder so


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "data"], "attnconv bench data was removed; use benchmarks/data_loader.py of the repository"),
        (["explain", "a.pt2", "a.png", "--trust"], "attnconv explain --trust was removed; a .pt2 file has no layers l"),
    ],
)
def test_what_was_removed(attnconv, arguments, message):
    code, _, err = attnconv(*arguments)
    assert (code, message in err) == (2, True)


def test_models(attnconv):
    _, out, _ = attnconv("models")
    assert "convnet3" in out
    assert "augment=[2,3]" in out
    assert "key_ratio=0.5" in out
    assert "aa_unet" in out
    _, out, _ = attnconv("models", "aa_*", "--json")
    assert {entry["name"]: entry["options"] for entry in json.loads(out)}["aa_convnet3"]["augment"] == [2, 3]


def test_models_table(attnconv):
    _, out, _ = attnconv("models", "aa_wide_*", "--table")
    assert re.search(r"aa_wide_resnet28_10 +CIFAR-100 +36.05 +36.2 +12.29 +11.40 +10.9 +no: params, FLOPs *\n", out)
    assert "unverified" not in out
    _, out, _ = attnconv("models", "se_resnet34", "--table")
    assert re.search(r" 22\.0† .* 7\.4† .*\n", out)
    assert out.endswith("\n† unverified: quoted from memory, not read in the paper.\n")
    _, out, _ = attnconv("models", "resnet34", "--table", "--json")
    (row,) = json.loads(out)
    assert row["published"] == {
        "name": "resnet34", "data": "ImageNet", "params": "21.8", "gflops": "7.4", "options": {},
        "unverified": False,
    }  # fmt: skip
    assert (row["params"], row["agrees"]) == (21_797_672, "no: FLOPs")


def test_steps_are_given_as_a_list_too(attnconv):
    words = ("summary", "convnet3", "--json")
    step = "[{add: {after: layer2, kind: simple}}]"
    assert attnconv(*words, "--attention", step)[1] == attnconv(*words, "--attend", "layer2=simple")[1]
    for command in (words, ("lr-find",), ("bench", "models")):
        for given, message in (
            (["[a"], "must be a YAML list of steps, got '[a'"),
            ([step, "--attend", "a=simple"], "leave"),
        ):
            code, _, err = attnconv(*command, "--attention", *given)
            assert (code, message in err) == (2, True), err


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


TRAIN_AND_NAME_MODULES = f"""
import sys
from attnconv.cli import main
code = main({TRAIN!r} + ["--epochs", "2", "--train-subset", "64", "--out", sys.argv[1]])
print(*(name for name in sys.modules if name.partition(".")[0] == "attnconv"))
sys.exit(code)
"""


def test_training_imports_what_it_needs_and_goes_on_when_nobody_reads_its_progress(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", TRAIN_AND_NAME_MODULES, str(tmp_path / "run")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, text=True)
    os.close(writer)
    assert done.returncode == 0
    assert (tmp_path / "run" / "result.json").exists()
    names = done.stdout.splitlines()[-1].split()
    unneeded = ("attnconv.export", "attnconv.models.hub", "attnconv.explain", "attnconv.recipes.trained")
    assert [name for name in names if name.startswith(unneeded)] == []
    assert len(names) < 90, names


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
TWO_PROCESSES = [sys.executable, "-m", "attnconv", *TRAIN, "--epochs", "1", "--train-subset", "128", "--devices", "2"]


def test_train_starts_its_processes_itself(attnconv, tmp_path):
    """Two of them over a folder of digits: validation sees each image once, and one of them prints."""
    command = [*TWO_PROCESSES, "--json", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    # The header's, the columns' and the epoch's: Fabric is silent.
    assert len(done.stderr.splitlines()) == 8, done.stderr
    result = json.loads(done.stdout)
    _, out, _ = attnconv("evaluate", tmp_path / "run", "--json")
    assert json.loads(out)["top1"] == pytest.approx(result["top1"])


@pytest.mark.slow
def test_two_processes_say_once_what_is_wrong(finished):
    command = [*TWO_PROCESSES, "--out", str(finished)]
    again = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert again.returncode == 2
    assert len(re.findall("attnconv: error: ", again.stderr)) == 1


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
    assert re.search(r"^digits +360 ", attnconv("evaluate", finished)[1], re.M)


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


@pytest.mark.parametrize(("model", "data"), [("convnet3", "far-pairs"), ("unet", "far-context")])
def test_generated_sets_from_training_to_prediction(attnconv, tmp_path, model, data):
    run = tmp_path / "run"
    code, out, err = attnconv(
        "train", "--model", model, "--data", data, "--epochs", "1", "--train-subset", "64", "--batch-size", "32",
        "--device", "cpu", "--out", run,
    )  # fmt: skip
    assert code == 0, err
    assert ("mean IoU" in out, "IoU" in err) == (data == "far-context",) * 2
    _, out, _ = attnconv("evaluate", run, "--json", "--device", "cpu")
    scores = json.loads(out)
    assert ("miou" in scores) == (data == "far-context")
    row = (run / "metrics.csv").read_text().splitlines()[1].split(",")
    assert scores["top1"] == pytest.approx(float(row[6]), abs=1e-3)
    _, again, _ = attnconv("evaluate", run, "--json", "--device", "cpu", "--data", data)
    assert json.loads(again) == scores
    picture(tmp_path / "a.png")
    code, out, err = attnconv("predict", run, tmp_path / "a.png")
    if data == "far-context":
        assert (code, out) == (2, "")
        assert "predict names whole images, and 'unet' gives each pixel a class" in err
    else:
        assert "same" in out


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
    (folder / "val" / ".hidden.png").write_text("no image")
    assert attnconv("predict", tmp_path / "run", folder / "train" / "blue")[0] == 0


def test_the_table_of_a_run_says_how_many_images_were_skipped(attnconv, folder, tmp_path):
    (folder / "val" / "red" / "bad.png").write_text("no image")
    _, out, _ = attnconv(
        "train", "--model", "convnet3", "--data", folder, "--image-size", "16", "--epochs", "1", "--batch-size", "4",
        "--workers", "0", "--skip-bad-images", "--out", tmp_path / "run",
    )  # fmt: skip
    assert "1 image could not be decoded" in out


PIPED = [sys.executable, "-c", "import sys; from attnconv.cli import main; sys.exit(main())"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        *(pytest.param(words, marks=pytest.mark.slow) for words in (["models", "--json"], ["summary", "convnet3"])),
    ],
)
def test_a_reader_that_has_gone_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PIPED, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_demo_trains_both_and_writes_the_page(attnconv, tmp_path):
    code, out, err = attnconv("demo", "--out", tmp_path / "demo", "--epochs", "1")
    assert code == 0, err
    assert "plain" in out
    assert "the network with attention is right on " in out
    text = (tmp_path / "demo" / "report.html").read_text()
    assert text.count("<svg") == 1
    assert text.count("<img") == 3 * (2 + 4)  # two pairs of glyphs, and the photo
    assert re.search(r"calls this a raccoon \(\d+\.\d %\)", text)
    assert text.count("4 heads share one scale: 0.0") == 3
    assert "The lower end, 0.031, is uniform attention over all 32 cells" in text
    assert re.search(r"Of the left glyph&#x27;s weight, \d+ % lies on the right half", text)
    code, again, _ = attnconv("demo", "--out", tmp_path / "demo", "--epochs", "1")
    assert code == 0
    assert "found in" in again


@pytest.fixture
def one_thread():
    """As many as the processes that the tests start: the order of sums is in the bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(os.name != "posix", reason="sends signals to a process group")
@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [
        (signal.SIGTERM, 143, "terminated"),
        pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_the_run_and_resume_ends_it(attnconv, tmp_path, one_thread, sent, code, word):
    """Interrupted in the middle of an epoch, the resumed run ends in the same bits as one never interrupted."""
    settings = ["--epochs", "8", "--train-subset", "160"]
    run = subprocess.Popen(
        [*PIPED, *TRAIN, *settings, "--out", str(tmp_path / "run")],
        stderr=subprocess.PIPE, text=True, start_new_session=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert run.stderr is not None
    assert any(line.startswith("epoch 1/8") for line in run.stderr)
    os.killpg(run.pid, sent)
    rest = run.stderr.read()
    assert run.wait(60) == code
    assert rest.splitlines()[-1] == f"attnconv: error: {word}"
    stopped = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert stopped["epoch"] < 8
    assert not (tmp_path / "run" / "result.json").exists()

    resumed, _, err = attnconv("train", "--resume", "--out", tmp_path / "run")
    assert resumed == 0, err
    assert attnconv(*TRAIN, *settings, "--out", tmp_path / "whole")[0] == 0
    one, other = (torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("run", "whole"))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
