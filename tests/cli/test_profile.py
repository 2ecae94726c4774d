"""attnconv train --profile."""

import json
import re

from cli.conftest import TRAIN

from attnconv.cli import main

SETTINGS = ["--epochs", "1", "--train-subset", "320", "--profile"]


def test_a_profile_is_printed_below_the_result(capfd, tmp_path):
    assert main([*TRAIN, *SETTINGS, "--out", str(tmp_path / "run")]) == 0
    out, err = capfd.readouterr()  # of the file descriptors: torch's profiler is C++
    assert len(err.splitlines()) == 8  # the header and the epoch's: tracing is silent
    lines = out.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'run'}: top-1 ")
    assert re.fullmatch(
        r"4 steps timed: [\d.]+ ms a step \(median\), \d+ images/s; [\d.]+% of the time in the loader",
        lines[1],
    )
    assert re.search(r"operator +ms a step +% of all +calls a step *\n", out)
    assert re.search(r"aten::convolution_backward +[\d.]+ +[\d.]+ +7\.0 *\n", out)
    trace = tmp_path / "run" / "profile" / "trace.json.gz"
    assert lines[-1] == f"Trace, for chrome://tracing or ui.perfetto.dev: {trace}"
    assert trace.exists()


def test_a_profile_in_json_and_of_a_run_that_is_done(attnconv, tmp_path):
    _, out, _ = attnconv(*TRAIN, *SETTINGS, "--json", "--out", tmp_path / "run")
    assert json.loads(out)["profile"]["steps"] == 4
    _, out, _ = attnconv("train", "--resume", "--profile", "--out", tmp_path / "run")
    assert "4 steps timed" in out


def test_what_cannot_be_said_of_a_run(attnconv, finished, tmp_path):
    _, out, _ = attnconv("train", "--resume", "--profile", "--out", finished)
    assert out.splitlines()[-1] == "no profile: the run was finished before, without --profile"
    _, out, _ = attnconv(*TRAIN, "--epochs", "1", "--train-subset", "32", "--profile", "--out", tmp_path / "run")
    assert out.splitlines()[-1] == "no step was timed: the first six warm up and are traced"
