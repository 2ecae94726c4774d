"""A disk that is full while a checkpoint is written: a small tmpfs, in a mount namespace of its own."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train import full_disk_run

SCRIPT = Path(full_disk_run.__file__)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="module")
def namespace():
    """The beginning of a command line whose command may mount; as root, and where users may do so."""
    problem = ""
    for flags in ("-m", "-Urm"):
        try:
            tried = subprocess.run(["unshare", flags, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
        except OSError as error:
            pytest.skip(f"no disk of known size: {error}")
        if tried.returncode == 0:
            return ["unshare", flags]
        problem = tried.stderr.decode().strip()
    pytest.skip(f"no disk of known size: {problem}")


def test_a_full_disk_costs_what_was_not_saved_and_nothing_else(namespace, tmp_path):
    disk, whole = tmp_path / "disk", tmp_path / "whole"
    disk.mkdir()
    torch.set_num_threads(1)
    full_disk_run.run(whole)
    size = (whole / "last.pt").stat().st_size
    mount = shlex.join(["mount", "-t", "tmpfs", "-o", f"size={5 * size}", "tmpfs", str(disk)])
    work = shlex.join([sys.executable, str(SCRIPT), str(disk), str(whole / "last.pt")])
    done = subprocess.run(
        [*namespace, "sh", "-c", f"{mount} && {work}"], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    message = r"^cannot write \S*/run/(best|last)\.pt( \(is the disk full\?\): [^\n]+|: No space left on device)$"
    for when, files, epochs in (
        ("at once", [], {}),  # as if it had never been, so that the same command is not refused
        ("later", ["best.pt", "config.yaml", "last.pt", "metrics.csv"], {"best.pt": 1, "last.pt": 1}),
        ("again", ["best.pt", "config.yaml", "last.pt", "metrics.csv"], {"best.pt": 1, "last.pt": 1}),
    ):
        assert re.match(message, found[when][0]), found[when][0]
        assert found[when][1:] == [files, epochs]
    assert found["end"] == ["best.pt", "config.yaml", "last.pt", "metrics.csv", "result.json"]
    assert found["same"]
