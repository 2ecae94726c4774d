import os
import subprocess
import sys

import pytest
from test_regular_file import deadline  # noqa: F401
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv import files
from attnconv.checks import InputError
from attnconv.files import is_locked, locked
from attnconv.train.fit import fit

pytest.importorskip("fcntl")

HOLD = """
import sys
from pathlib import Path
from attnconv.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path."""
    arguments = [sys.executable, "-c", HOLD, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def run(out):
    return fit(toy_net(), MemoryLoader(), val_loader(), config=toy_config(), out=out, meta={}, progress=False)


def test_two_runs_on_one_folder(tmp_path, holder):
    assert is_locked(tmp_path)
    with pytest.raises(
        InputError, match=r"^another process is at work in .*: wait for its end, or give another folder$"
    ):
        run(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_killed_process_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert not is_locked(tmp_path)
    run(tmp_path)


def test_a_lock_ends_with_its_block(tmp_path):
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    assert not is_locked(tmp_path / "none")


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    ended, end = os.pipe()
    runs, running = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if not child:
            os.close(end)
            os.write(running, b"1")
            os.read(ended, 1)
            os._exit(0)
        assert os.read(runs, 1) == b"1"
    for number in (ended, runs, running):
        os.close(number)
    try:
        assert not is_locked(tmp_path)
    finally:
        os.close(end)
        os.waitpid(child, 0)


def test_without_locks_nothing_is_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with locked(tmp_path):
        assert not is_locked(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a FIFO")
@pytest.mark.usefixtures("deadline")
def test_a_fifo_in_place_of_a_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run")
    assert not is_locked(tmp_path / "run")
    with pytest.raises(NotADirectoryError), locked(tmp_path / "run"):
        pass
