"""The files that run on other machines: they parse, call what the Makefile has, and name versions that are ours."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FILES = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split())
# What `make install` puts into .venv/bin, and the workflows call.
PROGRAMS = {"attnconv", "pip", "python"}


def steps_of(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def commands_of(workflow):
    return [line for step in steps_of(workflow) for line in step.get("run", "").splitlines()]


def unknown_calls(command):
    """Return what a line of shell asks of `make` that is no target, and programs that `make install` does not bring."""
    targets = [word for words in re.findall(r"\bmake ((?:[\w-]+ ?)+)", command) for word in words.split()]
    return sorted({*targets} - TARGETS) + sorted({*re.findall(r"\.venv/bin/([\w-]+)", command)} - PROGRAMS)


def lowest(package, extra=None):
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    (found,) = (line.partition(">=")[2] for line in lines if re.match(rf"{package}\b", line))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_parses(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_all_of_them_are_looked_at():
    names = {path.name for path in FILES}
    assert names == {
        *("ci.yml", "release.yml", "dependabot.yml", "bug.yml", "feature.yml", "config.yml"),
        ".pre-commit-config.yaml",
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_it_calls_what_there_is(path):
    commands = commands_of(yaml.safe_load(path.read_text()))
    assert len(commands) >= 5
    assert {command: found for command in commands if (found := unknown_calls(command))} == {}


@pytest.mark.parametrize(
    ("command", "found"),
    [("make tests", ["tests"]), ("make install test-slow", []), ("true && make docs", []), (".venv/bin/tox", ["tox"])],
)
def test_a_call_of_nothing_is_found(command, found):
    assert unknown_calls(command) == found


def test_ci_runs_on_the_pythons_and_torches_of_the_project():
    rows = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["strategy"]["matrix"][
        "include"
    ]
    linux = [row for row in rows if row["os"].startswith("ubuntu-")]
    pythons = sorted({row["python"] for row in linux}, key=lambda version: int(version.partition(".")[2]))
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    (oldest,) = (row for row in rows if row["torch"] not in ("pinned", "newest"))
    assert (oldest["torch"], oldest["torchvision"]) == (lowest("torch"), lowest("torchvision", "train"))
    assert oldest["python"] == pythons[0]
    assert [row["python"] for row in linux if row["torch"] == "newest"] == [pythons[-1]]
    assert [row["os"] for row in rows if row not in linux] == ["macos-latest"]


def test_ci_builds_the_kernel_with_the_oldest_compilers_that_contributing_names():
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    compilers = [row["compiler"] for row in job["strategy"]["matrix"]["include"] if "compiler" in row]
    gcc, clang = re.search(r"GCC (\d+)[^.]*Clang (\d+)", (ROOT / "CONTRIBUTING.md").read_text()).groups()
    assert compilers == [f"g++-{gcc}", f"clang++-{clang}"]
    installed = " ".join(step["run"] for step in job["steps"] if "apt-get" in step.get("run", ""))
    assert {f"g++-{gcc}", f"clang-{clang}"} <= set(installed.split())
    (build,) = (step for step in job["steps"] if step.get("run") == "make install")
    assert build["env"] == {"CXX": "${{ matrix.compiler }}"}  # empty in the other rows: setup.py then looks for one


def test_a_release_is_published_only_once_it_is_tested():
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    assert set(jobs["publish"]["needs"]) == set(jobs) - {"publish"} == {"build", "wheels"}
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert {"make test", "make test-slow", "make docs"} <= {step.get("run") for step in jobs["build"]["steps"]}


def test_a_release_is_an_sdist_and_a_wheel_for_each_platform():
    """A wheel of the runner itself, linux_x86_64, would be refused by PyPI."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    builds = [command for command in commands_of({"jobs": jobs}) if "-m build" in command]
    assert builds == [".venv/bin/python -m build --sdist"]
    assert jobs["wheels"]["strategy"]["matrix"]["os"] == ["ubuntu-latest", "ubuntu-24.04-arm", "macos-latest"]
    assert any(step["uses"].startswith("pypa/cibuildwheel@v") for step in jobs["wheels"]["steps"])
    uploaded = [step["with"] for step in steps_of({"jobs": jobs}) if "upload-artifact" in step.get("uses", "")]
    (downloaded,) = (step["with"] for step in jobs["publish"]["steps"] if "download-artifact" in step["uses"])
    assert [files["path"] for files in uploaded] == ["dist", "wheelhouse/*.whl"]
    assert all(fnmatch(files["name"], downloaded["pattern"]) for files in uploaded)
    assert len({files["name"] for files in uploaded}) == 2


def test_machines_that_fail_without_a_compiler_install_it():
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            text = " ".join(step.get("run", "") for step in job["steps"])
            assert ("make test" in text) == ("g++-aarch64-linux-gnu" in text), (path.name, name)


def test_no_workflow_may_write_to_the_repository():
    for path in WORKFLOWS:
        assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}, path


def test_pre_commit_has_the_ruff_of_the_tests():
    (hooks,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert f"ruff=={hooks['rev'].removeprefix('v')}" in (ROOT / "constraints.txt").read_text().split()
