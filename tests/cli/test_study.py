"""attnconv study: run, status, list, and bad input. The runs are in this process, but for one study."""

import json
import re
import socket

import pytest
import yaml
from cli.test_bad_input import assert_refused
from study.tiny import ARMS, BASE, Here

from attnconv.study import run
from attnconv.study.folder import write_note

FLAGS = {
    "run": "--extend --json --memory-gb --mix-versions --only --out --plan --ray --scale --seeds --threads",
    "status": "--folder --json",
    "list": "",
}


@pytest.mark.parametrize("command", FLAGS)
def test_every_flag_is_listed_here(attnconv, command):
    _, out, _ = attnconv("study", command, "--help")
    assert set(re.findall(r"--[a-z][a-z0-9-]*", out)) == {"--import", *FLAGS[command].split()}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "plan.yaml"
    values = {"name": "mine", "text": "?", "base": BASE, "arms": ARMS, "baseline": "plain", "seeds": 1}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_a_study_is_run_and_its_state_shown(attnconv, plan):
    """With processes, as a user has it."""
    code, out, err = attnconv("study", "run", plan, "--only", "plain", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["folder"] == "studies/mine"
    assert found["counts"] == {"done": 1, "diverged": 0, "failed": 0, "running": 0, "missing": 0}
    assert re.search(r"1/1 plain-seed0: done, top-1 \d+\.\d\d%, \d+ s", err)
    code, out, _ = attnconv("study", "status", "studies/mine", "--json")
    assert (code, json.loads(out)) == (0, found)


def test_a_folder_is_gone_on_with_and_extended(attnconv, plan, monkeypatch):
    monkeypatch.setattr(run, "on_this_machine", Here())
    assert attnconv("study", "run", plan, "--only", "plain")[0] == 0
    assert_refused(attnconv("study", "run", plan), r"arm augmented is new\. --extend accepts that")
    assert "note: 1 seed cannot show any difference" in attnconv("study", "run", plan, "--extend")[2]
    code, out, err = attnconv("study", "run", "studies/mine", "--seeds", "2", "--extend")
    assert code == 0, err
    assert "studies/mine: 4 done" in out
    assert "studies/mine: 4 runs, 2 done, 2 left" in err
    assert re.search(r"^ *augmented +2 +0 +0 +0 +0 *$", attnconv("study", "status", "studies/mine")[1], re.M)


def test_a_failed_run_is_an_error_that_can_be_mended(attnconv, plan, monkeypatch):
    def failing(folder, runs, study):
        for planned in runs:
            write_note(folder.run(planned), "failed", {"reason": "the disk is full"})
            yield planned

    monkeypatch.setattr(run, "on_this_machine", failing)
    code, out, err = attnconv("study", "run", plan)
    assert code == 2
    assert "2 failed" in out
    assert "plain-seed0: failed, the disk is full" in out
    last = err.splitlines()[-1]
    assert last.startswith("attnconv: error: 2 of 2 runs failed")
    assert last.endswith("plain-seed0: the disk is full")


def test_the_list_names_every_study(attnconv):
    from attnconv.study.plan_file import BUILT_IN

    _, out, _ = attnconv("study", "list")
    assert all(re.search(rf"^ *{name} +\d+ x \d +\d+ x \d", out, re.M) for name in BUILT_IN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "aa-cifar10"], "'aa-cifar10' is neither a built-in study nor a file .*; nearest: 'aa-cifar100'"),
        (["run", "nothing.yaml"], "no file at nothing.yaml"),
        (["run", "plan.yaml", "--scale", "small"], "--scale is for built-in studies"),
        (["run", "plan.yaml", "--seeds", "0"], "seeds must be at least 1"),
        (["run", "plan.yaml", "--only", "plan"], "unknown arm or block 'plan'; nearest: 'plain'"),
        (["run", ".", "--out", "there"], "--out cannot be used with the folder of a study"),
        (["run", "."], r"holds no study: it has no study\.yaml"),
        (["run", "position-encodings"], "arm 'none': 'imagenet' is neither a data set nor an existing folder"),
        (["status", "nowhere"], "nowhere holds no study"),
    ],
)
def test_bad_commands_get_one_line_and_leave_nothing(attnconv, plan, arguments, message):
    assert_refused(attnconv("study", *arguments), message)
    assert [path.name for path in plan.parent.iterdir()] == ["plan.yaml"]


@pytest.fixture
def silent():
    """A port that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_unreachable_ray_gets_one_line(attnconv, plan, silent, monkeypatch):
    ray = pytest.importorskip("attnconv.study.ray")
    pytest.importorskip("ray")
    monkeypatch.setattr(ray, "PROBE", 0.5)
    for address, message in (
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: .*refused"),
        (silent, f"no Ray cluster answers at {silent}: not within 0 s"),
        ("nonsense", "--ray must be HOST:PORT, ray://HOST:PORT, auto or local, got 'nonsense'"),
        ("host:99999", "no Ray cluster answers at host:99999"),
    ):
        assert_refused(attnconv("study", "run", plan, "--ray", address), message)
    assert not (plan.parent / "studies").exists()
