"""attnconv runs."""

import json
import os
import re
import shutil
import subprocess
import sys

import yaml

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
    assert re.search(r"run +state +epoch +best top-1 % +last +model +data +time +changed\n", out)
    assert re.search(r"a\[b\] +stopped +2/4 +50\.50 +40\.25 +m +dogs +1 h 1 min +\d+ s ago\n", out)
    (tmp_path / "a[b]" / "config.yaml").write_text("[")
    _, out, _ = attnconv("runs", tmp_path)
    assert re.search(r"changed +remark\n", out)
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
    assert re.search(rf"idle +finished .*{said}", out)
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


def test_watch_was_removed(attnconv, tmp_path):
    code, _, err = attnconv("runs", tmp_path, "--watch")
    assert (code, err.count("\n")) == (2, 1)
    assert "attnconv runs --watch was removed; use `watch attnconv runs FOLDER`" in err


def test_runs_are_listed_without_torch(tmp_path):
    stop(tmp_path, "one")
    code = (
        "import sys; from attnconv.cli import main\n"
        f"assert main(['runs', {str(tmp_path)!r}]) == 0\nassert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
