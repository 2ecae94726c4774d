"""FIFOs, sockets, devices and files without end where a command reads a file: one line, and no waiting."""

import json
import os
import shutil
import signal

import pytest
from cli.conftest import TRAIN, picture
from cli.test_bad_input import assert_refused
from test_regular_file import device, fifo, sparse, unix_socket

from attnconv.models.init_from import given_weights
from attnconv.recipes import load_trained

PLAN = "name: a\ntext: b\nbaseline: c\nbase: {data: digits, epochs: 1}\narms: {c: {model: convnet3}}\n"


# A run's header, and the row of an epoch.
HEADER = ("network ", "data ", "images ", "steps ", "device ", "out ", "epoch ")
KINDS = [
    (fifo, "a FIFO and not"),
    (unix_socket, "a socket and not a"),
    (device, "a character device and not a"),
]
SPARSE = (sparse, r"larger than [\d,]+ MiB, the limit for such a file: it has 200,000,000,000 bytes")


@pytest.fixture(autouse=True)
def deadline():
    """Whatever waits for a FIFO is interrupted."""

    def raise_it(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, raise_it)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(finished, folder, tmp_path):
    """A run, a folder of images and an image beside each other."""
    shutil.copytree(finished, tmp_path / "run")
    picture(tmp_path / "photo.png")
    return tmp_path


# What takes the special file's place, and the command that reads it.
COMMANDS = [
    ("x.png", ["predict", "run", "x.png"]),
    ("x.jpg", ["predict", "run", "photo.png", "x.jpg"]),
    ("x.png", ["explain", "run", "x.png"]),
    ("images/train/red/x.png", [*TRAIN[:3], "--data", "images", "--batch-size", "3", "--workers", "0", "--out", "new"]),
    ("images/val/red/x.png", ["evaluate", "run", "--data", "images", "--workers", "0"]),
    ("run/best.pt", ["predict", "run", "photo.png"]),
    ("x.pt", ["evaluate", "x.pt"]),
    ("x.pt", ["hub", "save", "x.pt", "saved"]),
    ("x.onnx", ["predict", "x.onnx", "photo.png"]),
    ("x.pt2", ["predict", "x.pt2", "photo.png", "--trust"]),
    ("x.yaml", [*TRAIN, "--config", "x.yaml", "--out", "new"]),
    ("run/config.yaml", ["train", "--resume", "--out", "run"]),
    ("run/last.pt", ["train", "--resume", "--out", "run"]),
    ("x.yaml", ["lr-find", "--config", "x.yaml"]),
    ("x.yaml", ["study", "run", "x.yaml", "--out", "study"]),
    ("study/study.yaml", ["study", "status", "study"]),
    ("study/records.jsonl", ["study", "report", "study"]),
    ("records/x.jsonl", ["bench", "report", "records"]),
    ("saved/config.json", ["predict", "saved", "photo.png"]),
    ("saved/model.safetensors", ["export", "saved"]),
]
NEEDS = {"x.onnx": "onnxruntime"}


@pytest.mark.parametrize(("make", "message"), [KINDS[0], pytest.param(*SPARSE, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_a_special_file_is_refused_in_one_line(attnconv, place, monkeypatch, name, command, make, message):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(place)
    for folder in ("study", "records"):
        (place / folder).mkdir()
    if name.startswith("saved/"):
        load_trained(place / "run").model.save_pretrained(place / "saved")
    (place / "study" / "study.yaml").write_text(PLAN)
    if name == "run/last.pt":
        (place / "run" / "best.pt").unlink()
    (place / name).unlink(missing_ok=True)
    make(place / name)
    if "images" in command:  # 16 x 16 in three colours, not digits: the network of the folder itself
        command = [word if word != "run" else "own" for word in command]
        if "own" in command:
            (place / name).rename(place / "aside")
            assert attnconv(*TRAIN[:3], "--data", "images", "--image-size", "8", "--epochs", "1", "--batch-size", "4",
                            "--workers", "0", "--out", "own")[0] == 0  # fmt: skip
            (place / "aside").rename(place / name)
    code, out, err = attnconv(*command)
    lines = [line for line in err.splitlines() if not line.startswith(HEADER)]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert_refused((code, out, lines[0]), f"{name.rpartition('/')[2]} is {message}")


@pytest.mark.parametrize(("make", "message"), KINDS[1:])
def test_sockets_and_devices_are_no_images(attnconv, finished, tmp_path, make, message):
    make(tmp_path / "x.png")
    assert_refused(attnconv("predict", finished, tmp_path / "x.png"), f"x.png is {message} regular file: it is not op")


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "result.json"])
@pytest.mark.parametrize(("make", "message"), [KINDS[0], SPARSE])
def test_a_list_of_runs_names_such_a_file(attnconv, place, name, make, message):
    (place / "run" / name).unlink()
    make(place / "run" / name)
    code, out, err = attnconv("runs", place, "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["state"] == "damaged"
    assert name in found["problem"]
    assert message.partition(" [")[0].partition(" and ")[0].split(",")[0] in found["problem"]


@pytest.mark.parametrize(("make", "message"), [KINDS[0], SPARSE])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_no_weights_are_taken_from_such_a_file(tmp_path, make, message, suffix):

    make(tmp_path / f"x{suffix}")
    with pytest.raises(ValueError, match=f"x{suffix} is {message}"):
        given_weights(tmp_path / f"x{suffix}", "resnet18")


def test_a_fifo_among_the_images_stops_no_worker_and_is_counted(attnconv, folder, tmp_path):
    os.mkfifo(folder / "train" / "red" / "x.png")
    code, out, err = attnconv(
        "train", "--model", "aa_convnet3", "--data", folder, "--image-size", "8", "--batch-size", "4", "--epochs", "1",
        "--workers", "2", "--device", "cpu", "--json", "--out", tmp_path / "run", "--skip-bad-images", "--cache-images",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["skipped_images"] == 1
