"""A study that is stopped in its first seconds, by Ctrl-C or killed, goes on when it is run again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study.study_process import plan
from study.tiny import Here, tiny

from attnconv.study.folder import StudyFolder, read_records, records
from attnconv.study.report import write_report
from attnconv.study.run import run_study

SCRIPT = Path(__file__).with_name("study_process.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


class Stopped(Here):
    """The executor to which Ctrl-C comes before the first run."""

    def __call__(self, folder, runs, study):
        raise KeyboardInterrupt


def stop(folder):
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny(), folder, Stopped(), progress=False)


def test_stopped_before_the_first_run_it_goes_on(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    stop(folder)
    assert [one["state"] for one in read_records(folder.records)] == ["missing", "missing"]
    assert not (folder.path / "runs").exists()
    stop(folder)
    found = run_study(tiny(), folder, Here(), progress=False)
    assert [one["state"] for one in found] == ["done", "done"]


def test_stopped_before_the_first_run_its_plan_may_change_and_it_is_shown(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    stop(folder)
    assert [one["state"] for one in records(folder, folder.study())] == ["missing", "missing"]
    write_report(folder.path)
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny(seeds=(3,)), folder, Stopped(), progress=False)
    assert [one["seed"] for one in read_records(folder.records)] == [3, 3]


def test_killed_while_it_wrote_its_plan_it_goes_on(tmp_path, monkeypatch):
    """A killed process cleans nothing up: half of the plan stays, under its other name."""
    folder = StudyFolder(tmp_path / "study")

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", die)
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            folder.prepare(tiny(), threads=1)
    assert not folder.plan.exists()
    assert len(list(folder.path.iterdir())) == 1
    assert folder.prepare(tiny(), threads=1) == folder.study()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_at_any_moment_of_its_first_seconds_it_goes_on(tmp_path, number):
    """Again and again in one folder, each time a little later; the last time it may go on to its end."""
    folder = tmp_path / "study"
    command = [sys.executable, str(SCRIPT), str(folder), "1"]
    with (tmp_path / "err").open("ab") as err:
        for pause in range(2, 30):
            study = subprocess.Popen(command, env=ENVIRONMENT, stderr=err, start_new_session=True)
            time.sleep(pause / 4)
            study.send_signal(number)
            study.wait(120)
        assert subprocess.run(command, env=ENVIRONMENT, stderr=err, check=False).returncode == 0
    assert "InputError" not in (tmp_path / "err").read_text()
    found = read_records(folder / "records.jsonl")
    assert [one["state"] for one in found] == ["done"] * len(plan(1).runs())
