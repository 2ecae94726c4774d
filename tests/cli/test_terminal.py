"""Tables in terminals of 80, 100 and 160 columns, and in a pipe; and answers that load no torch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attnconv.bench.records import load
from attnconv.cli import COMMANDS, terminal
from attnconv.cli.terminal import table_lines

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
HEADER = ("name", "score %", "note", "time")
ROWS = [("a_long_name", "9.50", "3 of them", "1 h 5 min"), ("b", "81.25", "", "40 s")]


def test_text_is_left_and_numbers_are_right():
    assert table_lines(HEADER, ROWS, 80) == [
        "name         score %       note       time",
        "------------------------------------------",
        "a_long_name     9.50  3 of them  1 h 5 min",
        "b              81.25                  40 s",
    ]
    lines = table_lines(("a", "b"), [("1", "x 2"), ("2", "3")], 80)
    assert lines[2:] == ["1  x 2", "2  3"]  # one cell is text


def test_a_dash_and_the_word_baseline_stand_among_numbers():
    lines = table_lines(("arm", "difference"), [("a", "baseline"), ("b", "-"), ("c", "+1.25")], 80)
    assert lines[2:] == ["a      baseline", "b             -", "c         +1.25"]


@pytest.mark.parametrize("terminal_here", [True, False])
def test_a_sentence_folds_between_words_in_a_terminal_alone(monkeypatch, capsys, terminal_here):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal_here)
    monkeypatch.setattr(terminal, "terminal_width", lambda: 12)
    terminal.say("one two three four")
    assert capsys.readouterr().out == ("one two\nthree four\n" if terminal_here else "one two three four\n")


def test_columns_go_from_the_right_and_names_stay_whole():
    lines = table_lines(HEADER, ROWS, 35)
    assert lines[0] == "name         score %       note"
    assert " ".join(lines[-2:]) == "(35 columns leave no room for 'time')"
    assert table_lines(HEADER, ROWS, 5)[2] == "a_long_name"
    assert " ".join(table_lines(HEADER, ROWS, 15)[4:]).endswith("no room for 'score %', 'note', 'time')")


def test_the_last_column_folds_between_words_and_stays():
    text = "one-word-of-it " * 6
    lines = table_lines(("name", "px", "why"), [("n", "8", text), ("m", "16", "")], 44, fold=True)
    assert lines[0] == "name  px  why"
    assert lines[2:] == [
        "n      8  one-word-of-it one-word-of-it",
        "          one-word-of-it one-word-of-it",
        "          one-word-of-it one-word-of-it",
        "m     16",
    ]
    assert table_lines(("name", "px", "why"), [("n", "8", text)], 30, fold=True)[0] == "name  why"


def test_an_empty_column_goes_and_wide_letters_count_twice():
    assert table_lines(("a", "none", "b"), [("猫", "", "x"), ("cat", "", "y")], 80)[2:] == ["猫   x", "cat  y"]


def test_a_pipe_has_80_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((0, 0)))  # as where there is none
    assert terminal.terminal_width() == 80


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A folder of runs with long names and remarks, and one of a study."""
    import yaml

    folder = tmp_path_factory.mktemp("runs")
    for i, name in enumerate(("leaderboard-imagewoof-256-20ep-ssa_xresnet50-seed0", "b")):
        (folder / name).mkdir()
        options = {"model": "seed_aa_wide_resnet28_10", "data": "imagenette-old", "epochs": 400}
        (folder / name / "config.yaml").write_text(yaml.safe_dump(options) if i == 0 else "[")
        (folder / name / "metrics.csv").write_text("epoch,val_top1,seconds\n1,50.5,2.0\n")
    return folder


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The folder of a study whose runs are all missing."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(
        "{name: mine, text: Does it help?, base: {data: digits}, baseline: plain, arms: {plain: {}, "
        "se-global-context-and-simple-self-attention: {lr: 0.02}}}"
    )
    return folder


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["models"], ["seed_aa_wide_resnet28_10", "ssa_xresnet152"]),
        (["models", "aa_wide*", "--table"], ["aa_wide_resnet28_10"]),
        (["train", "--list-recipes"], ["leaderboard-imagenette-256-20ep", "cifar100-aa-convnet3-35ep"]),
        (["runs", "RUNS"], ["leaderboard-imagewoof-256-20ep-ssa_xresnet50-seed0"]),
        (["summary", "aa_resnet18", "--image-size", "64"], ["layer4.1.conv1", "FLOPs, the paper's way"]),
        (["doctor"], ["Versions", "Extras"]),
        (["bench", "--explain-choice"], ["blocked", "native"]),
        (["study", "list"], ["why-attention"]),
        (["study", "status", "STUDY"], ["se-global-context-and-simple-self-attention", "missing"]),
        (["bench", "ops", "--device", "cpu", "--out", "OUT"], ["native", "-without-positions", "median ms"]),
        (["bench", "layers", "--device", "cpu", "--out", "OUT"], ["augmented-without-positions", "timm-bottleneck"]),
        (["evaluate", "FINISHED", "--device", "cpu"], ["digits"]),
    ],
)
def test_every_table_fits(attnconv, finished, records, planned, tmp_path, monkeypatch, command, names, width):
    places = {"RUNS": records, "FINISHED": finished, "STUDY": planned, "OUT": tmp_path}
    measured = load(RESULTS / f"{command[1]}.jsonl") if command[:1] == ["bench"] and "OUT" in command else []
    monkeypatch.setattr("attnconv.bench.benchmark.run", lambda *_, **__: iter([measured]))
    monkeypatch.setattr(terminal, "terminal_width", lambda: width)
    monkeypatch.setattr("attnconv.cli.doctor.terminal_width", lambda: width)
    code, out, err = attnconv(*(places.get(word, word) for word in command))
    assert code == 0, err
    for name in names:
        assert name in out
    long = [line for line in out.splitlines() if len(line) > width and " " in line.strip() and "/" not in line]
    assert long == []
    assert not re.search(r" \n", out)


@pytest.mark.parametrize(("classes", "shown"), [(5, False), (6, True)])
def test_top_5_only_from_six_classes_on(attnconv, tmp_path, monkeypatch, classes, shown):
    from types import SimpleNamespace

    from attnconv.cli import evaluate
    from attnconv.train.evaluate import Scores

    loader = SimpleNamespace(skipped=[])
    data = SimpleNamespace(name="photos", notes=(), val_loader=lambda **_: loader, passed_over={})
    trained = SimpleNamespace(meta={"classes": list(range(classes))}, checkpoint="best.pt", model=None, device="cpu")
    monkeypatch.setattr(evaluate, "load_network", lambda *_, **__: trained)
    monkeypatch.setattr("attnconv.recipes.trained.images_for", lambda *_, **__: data)
    monkeypatch.setattr("attnconv.train.evaluate.evaluate", lambda *_, **__: Scores(0.25, 80.0, 100.0, 20))
    code, out, err = attnconv("evaluate", tmp_path)
    assert code == 0, err
    assert ("top-5 %" in out, "top-1 %" in out) == (shown, True)


LIGHT = """
import contextlib, io, sys
from attnconv.cli import main
for words in {commands!r}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(words)
    assert "torch" not in sys.modules, words
"""


def without_torch(*commands):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(commands=commands)], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_help_of_every_level_loads_no_torch():
    of_bench = [["bench", name, "--help"] for name in ("ops", "layers", "models", "report")]
    of_study = [["study", name, "--help"] for name in ("run", "status", "report", "list")]
    of_hub = [["hub", name, "--help"] for name in ("save", "push")]
    commands = [["--help"], *([name, "--help"] for name in COMMANDS), *of_bench, *of_study, *of_hub]
    assert without_torch(*commands) == []


def test_help_of_a_command_is_its_docstring(attnconv):
    assert "override --recipe" in " ".join(attnconv("train", "--help")[1].split())
    assert "Takes about a minute" in attnconv("demo", "--help")[1]
    assert "Run a plan" in attnconv("study", "--help")[1]
    groups = re.findall("─ (\\w+) ─", attnconv("train", "--help")[1])
    assert groups == ["Parameters", "Model", "Data", "Optimisation", "Run"]


def test_lists_load_no_torch():
    assert without_torch(["models"], ["models", "aa_*", "--json"], ["train", "--list-recipes"]) == []


ERRORS = [
    (["trian"], 'Unknown command "trian". Did you mean "train"?'),
    (["models", "aa_renset*"], "no network matches 'aa_renset*'; nearest: 'aa_resnet"),
    (["models", "--table", "aa_renset*"], "no published network matches 'aa_renset*'; nearest: 'aa_resnet"),
    (["train", "--modle", "x"], "Unknown option: --modle. Did you mean --model?"),
    (["train", "--network", "x"], "Unknown option: --network; see attnconv train --help"),
    (["bench", "ops", "S1"], "unexpected argument 'S1'; see attnconv bench ops --help"),
    (["train", "NAME"], "unexpected argument 'NAME'; did you mean --recipe NAME or --model NAME?"),
    (["train", "--model", "xresnt50"], "unknown model 'xresnt50'; nearest: 'xresnet50'"),
    (["lr-find", "--model", "xresnt50"], "unknown model 'xresnt50'; nearest: 'xresnet50'"),
    (["summary", "xresnt50"], "unknown model 'xresnt50'; nearest: 'xresnet50'"),
    (["train", "--recipe", "cifar100-30"], "unknown recipe 'cifar100-30'; nearest: 'cifar100-30ep'"),
    (["train", "--option", "augmnt=[1]"], "unknown option of aa_convnet3: 'augmnt'; nearest: 'augment'"),
    (["summary", "aa_convnet3", "--option", "augmnt=[1]"], "unknown option of aa_convnet3: 'augmnt'"),
    (["train", "--schedule", "cosin"], 'Invalid value "cosin" for --schedule'),
    (["train", "--device", "gpu"], 'Invalid value "gpu" for --device'),
    (["evaluate", "run", "--checkpoint", "first"], 'Invalid value "first" for --checkpoint'),
    (["export", "run", "--format", "tflite"], 'Invalid value "tflite" for --format'),
    (["train", "--image-size", "12y4"], "Invalid value for --image-size: image_size must be int, got '12y4'"),
    (["train", "--data", "cifar10x"], "'cifar10x' is neither a data set nor an existing folder; nearest: 'cifar10'"),
    (["train", "--attend", "layer3=simpel"], "--attend: unknown attention layer 'simpel'; nearest: 'simple'"),
    (["bench", "models", "--model", "aa_convnet4"], "unknown model 'aa_convnet4'; nearest: 'aa_convnet3'"),
    (["bench", "models", "--impl", "tritn"], "unknown impl 'tritn'; nearest: 'triton'"),
    (["bench", "models", "--attend", "layer3=simpel"], "--attend: unknown attention layer 'simpel'; nearest: 'simple'"),
    (["bench", "ops", "--case", "S9"], "unknown case 'S9'; nearest: 'S"),
    (["bench", "ops", "--impl", "eagre"], "unknown impl 'eagre'; nearest: 'eager'"),
    (["bench", "ops", "--case", "X1", "--impl", "eager"], "unknown impl 'eager'; known: auto, plain-gram"),
    (["bench", "ops", "--sizes", "0"], "a size of the sweep must be at least 1, got 0"),
    (["bench", "layers", "--case", "S1"], "unknown case 'S1'; nearest: 'L1'"),
    (["bench", "layers", "--layer", "conv"], "unknown layer 'conv'; nearest: 'conv2d'"),
    (["bench", "--explain-choice", "--map-size", "x"], "--map-size must be integers such as 8,16,32, got 'x'"),
    (["bench", "report", "nothing"], "no folder at nothing"),
    (["study", "run", "why-atention"], "'why-atention' is neither a built-in study nor a file or folder of one; near"),
    (["study", "report", "nothing"], "nothing holds no study"),
    (["predict", "nothing"], "predict needs at least one image or folder"),
    (["predict", "nothing", "photo.jpg"], "no image or folder at photo.jpg"),
    (["predict", "nothing", "."], "nothing is neither a run folder nor a checkpoint"),
    (["export", "nothing"], "nothing is neither a run folder nor a checkpoint"),
    (["hub", "save", "nothing", "out"], "nothing is neither a run folder nor a checkpoint"),
    (["evaluate", "nothing"], "nothing is neither a run folder nor a checkpoint"),
    (["explain", "nothing", "photo.jpg"], "nothing is neither a run folder nor a checkpoint"),
    (["train", "--pretrained"], "--pretrained: no library has weights of 'aa_convnet3'; give --init-from a file"),
]


def test_names_that_the_command_line_knows_are_those_of_the_library():
    from attnconv.cli.flags import DATA_SETS, KINDS
    from attnconv.data import DATA_SETS as of_data
    from attnconv.layers.registry import _REGISTERED

    assert sorted(DATA_SETS) == sorted(of_data)
    assert {*KINDS} <= {*_REGISTERED}


def test_errors_about_names_and_values_load_no_torch():
    lines = without_torch(*(words for words, _ in ERRORS))
    assert len(lines) == len(ERRORS)
    for line, (_, message) in zip(lines, ERRORS, strict=True):
        assert line.startswith(f"attnconv: error: {message}"), line


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["-b", "16"], {"batch_size": 16}),
        (["--amp"], {"precision": "bf16"}),
        (["--amp", "--precision", "bf16"], {"precision": "bf16"}),
        (["--val-split", "0.2"], {"val_split": 0.2}),
        (["--model", "aa_resnet18", "--pretrained"], {"init_from": "torchvision"}),
        (["--model", "torchvision:resnet18", "--pretrained"], {"init_from": "torchvision"}),
        (["--model", "timm:resnet18", "--pretrained"], {"init_from": "timm"}),
        (["--amp", "--precision", "fp16"], "--amp is short for --precision bf16, and --precision fp16 is given, too"),
        (
            ["--model", "resnet18", "--pretrained", "--init-from", "a.pt"],
            "--pretrained is short for --init-from torchv",
        ),
        (["--model", "xresnet18", "--pretrained"], "--pretrained: no library has weights of 'xresnet18'"),
    ],
)
def test_short_flags(attnconv, monkeypatch, flags, wanted):
    asked = []

    def run(config, *_, **__):
        asked.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("attnconv.recipes.run", run, raising=False)
    code, _, err = attnconv("train", *flags)
    if isinstance(wanted, str):
        assert (code, asked) == (2, [])
        assert wanted in err
    else:
        assert {name: getattr(asked[0], name) for name in wanted} == wanted


@pytest.mark.parametrize("command", [["evaluate"], ["lr-find"], ["bench", "models"]])
def test_b_is_the_batch_size_everywhere(attnconv, command):
    assert re.search(r"--batch-size -b", attnconv(*command, "--help")[1])
