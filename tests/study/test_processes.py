"""Studies whose processes are killed and interrupted, on this machine and under Ray: they end in the same records."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study.study_process import plan
from study.tiny import without_times

from attnconv import extensions
from attnconv.checks import InputError
from attnconv.study import process as process_module
from attnconv.study import run as run_module
from attnconv.study.folder import StudyFolder, facts_of, read_records, record, write_note
from attnconv.study.process import RunProcess, child_environment, killed
from attnconv.study.run import gpus_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sends signals, and looks for processes in /proc")

SCRIPT = Path(__file__).with_name("study_process.py")
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",
    "PYTHONPATH": os.pathsep.join(sys.path),
}
EPOCHS = 12
DEADLINE = 300.0  # seconds, of waiting for what takes a few on a quiet machine


def comparable(records):
    """Without times, and without the commit: the checkout may move on while a test runs."""
    return [{key: value for key, value in one.items() if key != "commit"} for one in without_times(records)]


def start(folder, *mode):
    command = [sys.executable, str(SCRIPT), str(folder), str(EPOCHS), *mode]
    with (folder.with_suffix(".err")).open("ab") as err:
        return subprocess.Popen(command, env=ENVIRONMENT, stderr=err, start_new_session=True)


def finish(process, folder):
    assert process.wait(400) == 0, folder.with_suffix(".err").read_text()
    return read_records(folder / "records.jsonl")


def until(what, process=None):
    end = time.monotonic() + DEADLINE
    while not what():
        assert process is None or process.poll() is None, "the study ended too early"
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def children(folder):
    """Process ids, and their parents', of the runs of a study that are under way."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            stat = (path / "stat").read_text()
        except OSError:
            continue
        if b"--of-study" in words and words[-2].startswith(str(folder).encode()):
            found[int(path.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def epochs(folder, name):
    path = folder / "runs" / name / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    found = finish(start(folder), folder)
    assert [one["state"] for one in found] == ["done"] * 2
    return comparable(found)


@pytest.mark.slow
def test_killed_with_its_run_it_goes_on_where_it_was(undisturbed, tmp_path):
    folder = tmp_path / "study"
    study = start(folder)
    until(lambda: epochs(folder, "augmented-seed0") >= 2, study)
    (child,) = children(folder)
    os.kill(study.pid, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    study.wait()
    before = (folder / "runs/plain-seed0/last.pt").stat().st_mtime_ns
    assert comparable(finish(start(folder), folder)) == undisturbed
    assert (folder / "runs/plain-seed0/last.pt").stat().st_mtime_ns == before


@pytest.mark.slow
def test_killed_alone_its_run_saves_itself_and_ends(undisturbed, tmp_path):
    folder = tmp_path / "study"
    study = start(folder)
    until(lambda: epochs(folder, "plain-seed0") >= 2, study)
    os.kill(study.pid, signal.SIGKILL)
    study.wait()
    until(lambda: not children(folder))
    assert 2 <= epochs(folder, "plain-seed0") < EPOCHS
    assert comparable(finish(start(folder), folder)) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", [(), ("ray",)])
def test_interrupted_it_saves_the_run_under_way(undisturbed, tmp_path, sent, mode):
    folder = tmp_path / "study"
    study = start(folder, *mode)
    until(lambda: epochs(folder, "plain-seed0") >= 2, study)
    os.kill(study.pid, sent)
    assert study.wait(120) == 130
    assert not children(folder)
    first = read_records(folder / "records.jsonl")[0]
    assert first["state"] == "missing"
    assert first["reason"].startswith("interrupted after ")
    assert comparable(finish(start(folder), folder)) == undisturbed


@pytest.mark.slow
def test_a_run_that_is_killed_is_begun_again_from_its_checkpoint(undisturbed, tmp_path):
    folder = tmp_path / "study"
    study = start(folder)
    until(lambda: epochs(folder, "plain-seed0") >= 2, study)
    (child,) = (child for child in children(folder) if is_of(child, "plain"))
    os.kill(child, signal.SIGKILL)
    assert comparable(finish(study, folder)) == undisturbed


@pytest.mark.slow
def test_the_process_that_waits_for_its_turn_may_be_killed(undisturbed, tmp_path):
    folder = tmp_path / "study"
    study = start(folder)
    until(lambda: epochs(folder, "plain-seed0") >= 2, study)
    (child,) = (child for child in children(folder) if is_of(child, "augmented"))
    assert not (folder / "runs" / "augmented-seed0").exists()
    os.kill(child, signal.SIGKILL)
    assert comparable(finish(study, folder)) == undisturbed


@pytest.mark.slow
def test_under_ray_the_records_are_the_same(undisturbed, tmp_path):
    folder = tmp_path / "study"
    assert comparable(finish(start(folder, "ray"), folder)) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["worker", "run"])
def test_killed_in_the_middle_under_ray_all_runs_complete(undisturbed, tmp_path, whom):
    """The worker that a task runs in, or the run's own process below it."""
    folder = tmp_path / "study"
    study = start(folder, "ray")
    until(lambda: epochs(folder, "plain-seed0") >= 2, study)
    child, worker = next(pair for pair in children(folder).items() if is_of(pair[0], "plain"))
    assert "ray::" in Path(f"/proc/{worker}/cmdline").read_text()
    os.kill(worker if whom == "worker" else child, signal.SIGKILL)
    assert comparable(finish(study, folder)) == undisturbed
    facts = facts_of(folder / "runs" / "plain-seed0")
    assert len(facts["sessions"]) == 2  # it was indeed begun again


def is_of(process, arm):
    return Path(os.fsdecode(Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[-2])).name.startswith(arm)


def test_a_process_that_is_killed_each_time_is_given_up_and_said_so(tmp_path, monkeypatch):
    """Nothing of the library runs here: the child kills itself at once."""
    monkeypatch.setattr(process_module, "COMMAND", ("-c", "import os; os.kill(os.getpid(), 9)"))
    study = plan(1)
    folder = StudyFolder(tmp_path / "study")
    folder.prepare(study, threads=1)
    write_note(folder.run(study.runs()[0]), "failed", {"reason": "of an earlier time"})
    process = RunProcess(folder, study.runs()[0], 1)
    process.begin()
    until(process.ended)
    assert process.tries == 3
    found = record(folder, study.runs()[0])
    assert found["state"] == "failed"
    assert "its process was killed 3 times, at last by SIGKILL, perhaps for want of memory" in found["reason"]


@pytest.mark.timeout(60)
def test_a_fifo_in_the_place_of_a_log_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(process_module, "COMMAND", ("-c", ""))
    study = plan(1)
    folder = StudyFolder(tmp_path / "study")
    folder.prepare(study, threads=1)
    log = folder.log(study.runs()[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(log)
    with pytest.raises(InputError, match="is a FIFO and not a regular file: it is not opened"):
        RunProcess(folder, study.runs()[0], 1)


def test_a_process_that_cannot_start_is_a_failed_run(tmp_path, monkeypatch):
    monkeypatch.setattr(process_module, "COMMAND", ("-c", "import sys; sys.exit(3)"))
    study = plan(1)
    folder = StudyFolder(tmp_path / "study")
    folder.prepare(study, threads=1)
    process = RunProcess(folder, study.runs()[0], 1)
    process.begin()
    until(process.ended)
    assert process.tries == 1
    assert "its process ended with code 3" in record(folder, study.runs()[0])["reason"]


def test_what_a_launcher_said_to_the_study_is_not_for_its_runs(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = child_environment(3)
    assert "SLURM_PROCID" not in found
    assert "WORLD_SIZE" not in found
    assert found["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("code", "was"), [(0, False), (1, False), (-9, True), (143, True), (130, True)])
def test_which_ends_are_a_signals(code, was):
    assert killed(code) is was


@pytest.mark.parametrize(
    ("options", "present", "expected"),
    [
        ({"device": "cpu"}, 2, 0),
        ({"device": "auto"}, 0, 0),
        ({"device": "auto"}, 2, 1),
        ({"device": "cuda", "devices": 2}, 2, 2),
        ({"device": "auto", "devices": "auto"}, 4, 4),
    ],
)
def test_the_gpus_of_a_run(options, present, expected):
    assert gpus_of(gpu_plan(**options), present) == expected


@pytest.mark.parametrize(
    ("options", "present", "message"),
    [
        ({"device": "cuda"}, 0, "arm 'plain' needs 1 GPUs, and no machine here has more than 0"),
        ({"device": "auto", "devices": 4}, 2, "arm 'plain' needs 4 GPUs, and no machine here has more than 2"),
        ({"device": "auto", "precision": "fp16"}, 0, "precision 'fp16', which needs a GPU"),
    ],
)
def test_gpus_that_are_not_there(options, present, message):
    with pytest.raises(InputError, match=message):
        gpus_of(gpu_plan(**options), present)


def gpu_plan(**options):
    from study.tiny import tiny

    return tiny(base=options).runs()[0]


def test_one_run_a_gpu(tmp_path, monkeypatch):
    """Two GPUs and four runs: at most two at a time, each with a GPU of its own."""
    under_way, seen = {}, []

    class Fake:
        def __init__(self, folder, planned, threads, *, gpus):
            (gpu,) = gpus
            assert gpu not in under_way.values()
            under_way[planned.name] = gpu
            seen.append((planned.name, gpu))
            self.planned, self.looks = planned, 0

        def begin(self):
            assert self.looks == 0

        def ended(self):
            self.looks += 1
            if self.looks == 2:
                del under_way[self.planned.name]
            return self.looks == 2

    from study.tiny import BASE, tiny

    monkeypatch.setattr(run_module, "_visible_gpus", lambda: ["4", "7"])
    monkeypatch.setattr(run_module, "RunProcess", Fake)
    monkeypatch.setattr(run_module, "PAUSE", 0.0)
    study = tiny(base={**BASE, "device": "auto"}, seeds=(0, 1))
    ended = [run.name for run in run_module.on_this_machine(StudyFolder(tmp_path), study.runs(), study) if run]
    assert sorted(ended) == sorted(run.name for run in study.runs())
    assert {gpu for _, gpu in seen} == {"4", "7"}


@pytest.mark.parametrize(
    ("code", "printed", "note", "reason"),
    [
        (1, "epoch 1\nRuntimeError: out of memory\n", "failed", "RuntimeError: out of memory"),
        (2, "attnconv: error: the disk is full\nmore\n", "failed", "the disk is full"),
        (
            2,
            "attnconv: error: the loss is nan at step 12 (lr 1): give a smaller lr; last good checkpoint: none yet",
            "diverged",
            "the loss is nan at step 12 (lr 1): give a smaller lr; last good checkpoint: none yet",
        ),
    ],
)
def test_what_a_process_says_is_the_reason(tmp_path, code, printed, note, reason):
    study = plan(1)
    folder = StudyFolder(tmp_path / "study")
    folder.prepare(study, threads=1)
    process_module.begin_run(folder, study.runs()[0])
    process_module.note_end(folder, study.runs()[0], code, printed)
    found = record(folder, study.runs()[0])
    assert (found["state"], found["reason"]) == (note, reason)


def test_the_code_of_your_own_behind_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extensions, "imported", imported := [])
    monkeypatch.setattr(process_module, "imported", imported)
    for name in ("code_of_a_gate", "code_of_a_network"):
        (tmp_path / f"{name}.py").write_text("def make(num_classes): ...\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert process_module.own_code("convnet3") is None
    extensions.import_modules(["code_of_a_gate"])
    digest = hashlib.sha256(b"def make(num_classes): ...\n").hexdigest()[:12]
    assert process_module.own_code("convnet3") == f"code_of_a_gate {digest}"
    extensions.import_factory("code_of_a_network:make")
    found = process_module.own_code("code_of_a_network:make")
    assert found == f"code_of_a_gate {digest}, code_of_a_network {digest}"
