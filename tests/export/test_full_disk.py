"""Exports to a full disk, in a process of its own: torch's own writer would end it with SIGABRT."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from export import full_disk_export
from train.test_full_disk import namespace  # noqa: F401  a fixture

from attnconv import export

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

SCRIPT = Path(full_disk_export.__file__)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize("form", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_an_export_to_a_full_disk_is_one_sentence_and_leaves_the_old_file(namespace, tmp_path, form):  # noqa: F811
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shlex.join(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)])
    work = shlex.join([sys.executable, str(SCRIPT), str(disk), form])
    done = subprocess.run(
        [*namespace, "sh", "-c", f"{mount} && {work}"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    message, files, old = json.loads(done.stdout)
    suffix = export.SUFFIXES[form]
    assert re.fullmatch(rf"cannot write \S+/model\{suffix}: No space left on device", message)
    assert (files, old) == (["full", f"model{suffix}"], "old")
