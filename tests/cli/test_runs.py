"""attnconv runs, once and as runs go on."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from attnconv.cli import runs as command

METRICS = "epoch,val_top1,seconds\n"


def stop(folder, name, epochs=4, rows=((1, 50.5, 2.0), (2, 40.25, 3700.0))):
    """The files of a run without its checkpoints."""
    (folder / name).mkdir(parents=True)
    (folder / name / "config.yaml").write_text(yaml.safe_dump({"model": "m", "data": "/pics/dogs", "epochs": epochs}))
    write_rows(folder / name, rows)
    return folder / name


def write_rows(run, rows):
    (run / "metrics.csv").write_text(METRICS + "".join(",".join(map(str, row)) + "\n" for row in rows))


def test_a_table(attnconv, tmp_path):
    stop(tmp_path, "a[b]")
    code, out, _ = attnconv("runs", tmp_path)
    assert code == 0
    assert re.search(r"run +model +data +state +epoch +best top-1 % +last top-1 % +time +changed *\n", out)
    assert re.search(r"a\[b\] +m +dogs +stopped +2/4 +50\.50 +40\.25 +1 h 1 min +\d+ s ago *\n", out)
    (tmp_path / "a[b]" / "config.yaml").write_text("[")
    _, out, _ = attnconv("runs", tmp_path)
    assert re.search(r"changed +remark *\n", out)
    assert re.search(r"a\[b\] +damaged .*config\.yaml is damaged, or none of a run", out)


def test_json(attnconv, tmp_path, finished):
    shutil.copytree(finished, tmp_path / "one")
    _, out, _ = attnconv("runs", tmp_path, "--json")
    (entry,) = json.loads(out)
    result = json.loads((finished / "result.json").read_text())
    assert entry.pop("changed").endswith("+00:00")
    assert entry == {
        "run": str(tmp_path / "one"), "name": "one", "state": "finished", "model": "aa_convnet3", "data": "digits",
        "epochs_done": 2, "epochs": 2, "best_top1": result["best_top1"], "last_top1": result["top1"],
        "seconds": result["seconds"], "problem": None, "remark": None,
    }  # fmt: skip


def finish(run, **off):
    result = {"epochs": 2, "best_top1": 50.5, "top1": 40.25, "seconds": 3702.0}
    (run / "result.json").write_text(json.dumps(result | ({"attention_off": off} if off else {})))


def test_inactive_attention_is_remarked(attnconv, tmp_path):
    said = "attention inactive: switching it off changes no prediction"
    finish(stop(tmp_path, "idle"), logits_moved=1e-6, predictions_changed=0.0)
    finish(stop(tmp_path, "works"), logits_moved=0.2, predictions_changed=0.0)
    finish(stop(tmp_path, "plain"))
    _, out, _ = attnconv("runs", tmp_path)
    assert out.count(said) == 1
    assert re.search(rf"idle +m .*{said}", out)
    found = {entry["name"]: entry["remark"] for entry in json.loads(attnconv("runs", tmp_path, "--json")[1])}
    assert found == {"idle": said, "works": None, "plain": None}
    finish(tmp_path / "plain", logits_moved="0", predictions_changed=0.0)
    assert "result.json is damaged, or none of a run" in attnconv("runs", tmp_path)[1]


def test_a_folder_without_runs(attnconv, tmp_path):
    assert attnconv("runs", tmp_path) == (0, f"no runs in {tmp_path}\n", "")
    assert json.loads(attnconv("runs", tmp_path, "--json")[1]) == []
    code, _, err = attnconv("runs", tmp_path / "none")
    assert code == 2
    assert re.fullmatch("attnconv: error: .*none does not exist; give the folder that holds the runs\n", err)


def pauses(monkeypatch, *steps):
    """Instead of each pause one of the steps, and then Ctrl-C."""
    left = list(steps)

    def sleep(seconds):
        assert seconds == command.PAUSE
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    monkeypatch.setattr(command.time, "sleep", sleep)


def test_watching_without_a_terminal_says_each_change_once(attnconv, tmp_path, monkeypatch):
    run = stop(tmp_path, "one", rows=())
    pauses(
        monkeypatch,
        lambda: None,
        lambda: write_rows(run, [(1, 61.0, 2.0)]),
        lambda: (run / "metrics.csv").touch(),
        lambda: stop(tmp_path, "two", rows=[]),
        lambda: shutil.rmtree(run),
    )
    code, out, err = attnconv("runs", tmp_path, "--watch")
    assert (code, err) == (0, "")
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in out.splitlines()] == [
        "one: stopped, epoch 0/4",
        "one: stopped, epoch 1/4, top-1 61.00%, best 61.00%",
        "two: stopped, epoch 0/4",
        "one: gone",
    ]


def test_watching_as_json_gives_an_object_a_line(attnconv, tmp_path, monkeypatch):
    run = stop(tmp_path, "one")
    pauses(monkeypatch, lambda: write_rows(run, [(3, 61.0, 2.0)]))
    _, out, _ = attnconv("runs", tmp_path, "--watch", "--json")
    assert [json.loads(line)["epochs_done"] for line in out.splitlines()] == [2, 3]


def test_watching_on_a_terminal_draws_the_table_again(attnconv, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for name, value in (("TERM", "xterm"), ("COLUMNS", "120"), ("LINES", "40")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    run = stop(tmp_path, "one", rows=())
    pauses(monkeypatch, lambda: write_rows(run, [(1, 61.0, 2.0)]))
    assert attnconv("runs", tmp_path, "--watch")[0] == 0
    shown = terminal.getvalue()
    assert shown.index("0/4") < shown.index("1/4")
    assert "61.00" in shown
    assert "\x1b[1A" in shown  # back up, over the old table


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_ends_watching_well(tmp_path):
    stop(tmp_path, "one")
    command = [sys.executable, "-m", "attnconv", "runs", str(tmp_path), "--watch"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert watching.stdout is not None
    assert "one: stopped, epoch 2/4" in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=60)
    assert (watching.returncode, out, err) == (0, "", "")


def test_runs_are_listed_without_torch(tmp_path):
    stop(tmp_path, "one")
    code = (
        "import sys; from attnconv.cli import main\n"
        f"assert main(['runs', {str(tmp_path)!r}]) == 0\nassert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
