"""Make each change of mutants.toml in a copy of the library, and see which test notices it.

python tests/mutants/run.py > tests/mutants.md      all of them, about ten minutes; exit code 1 if one survives
python tests/mutants/run.py EMA order               those with one of these words in their names
"""

import datetime
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.toml")
PATIENCE = 600  # seconds for the tests of one
SURVIVED = "**survived**"


def mutants() -> list[dict[str, Any]]:
    """All of the list; "named" says which once went unnoticed."""
    with open(LIST, "rb") as file:
        found = tomllib.load(file)
    return [{**one, "named": kind == "named"} for kind in ("named", "mutant") for one in found[kind]]


def changed(text: str, mutant: dict[str, Any]) -> str:
    """``text`` of the file with the change in it; ValueError if its place is not there, or not once."""
    if (count := text.count(mutant["old"])) != 1:
        raise ValueError(f"{mutant['name']!r}: {mutant['old']!r} stands {count} times in {mutant['file']}")
    return text.replace(mutant["old"], mutant["new"])


def row(mutant: dict[str, Any]) -> str:
    """The row of ``mutant`` in mutants.md, without its last cell."""
    cells = (mutant["name"], mutant["file"], f"`{mutant['old']}`", f"`{mutant['new']}`")
    cells = ("*" * mutant["named"], *(" ".join(cell.replace("|", "\\|").split()) for cell in cells))
    return f"| {' | '.join(cells)} |"


class FirstFailure:
    """A plugin of pytest that keeps the name of the first test that failed."""

    name = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = f"{report.nodeid} cannot be imported"


def run_tests(source: Path, tests: list[str], answer: Connection) -> None:
    """In a process of its own: pytest on ``source``; the first failure's name, "" if none, None if nothing ran."""
    sys.path[:0] = [str(source), str(ROOT / "tests")]
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])  # for what tests start
    os.chdir(ROOT)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import attnconv

    assert Path(attnconv.__file__).is_relative_to(source)
    first = FirstFailure()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not network"]
    code = pytest.main([*options, *(f"tests/{test}" for test in tests)], plugins=[first])
    answer.send(first.name if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or first.name else None)


def first_failure(source: Path, tests: list[str]) -> str:
    """The name of the first of ``tests`` that fails on ``source``, "" if none does; RuntimeError if they cannot run."""
    context = multiprocessing.get_context("fork")  # torch is loaded once, below
    ours, theirs = context.Pipe()
    process = context.Process(target=run_tests, args=(source, tests, theirs))
    process.start()
    theirs.close()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        return "no end of the tests"
    found = ours.recv() if process.exitcode == 0 else None
    if found is None:
        raise RuntimeError(f"these tests did not run: {' '.join(tests)}")
    return found.removeprefix("tests/")


def noticed_by(source: Path, mutant: dict[str, Any]) -> str:
    """The test that notices the change of ``mutant``, "" if none; ``source``, a copy, has it for the moment."""
    file = source / "attnconv" / mutant["file"]
    before = file.read_text()
    file.write_text(changed(before, mutant))
    try:
        return first_failure(source, mutant["tests"])
    finally:
        file.write_text(before)


def main(words: list[str]) -> int:
    import lightning_fabric  # noqa: F401  here, so that no process has to
    import scipy.stats  # noqa: F401
    import torchvision.transforms.v2  # noqa: F401

    chosen = [one for one in mutants() if not words or any(word in one["name"] for word in words)]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    print("# Changes that tests notice\n")
    print("Each was made by `tests/mutants/run.py` in a copy of the library; the last column is the first test that")
    print(f"failed. Run {datetime.date.today()} at {commit.stdout.strip()}; a star marks those that once survived.\n")
    print("| | change | file | from | to | noticed by |\n|---|---|---|---|---|---|")
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        sys.dont_write_bytecode = True  # two changes in one second would share it
        tests = {test for one in chosen for test in one["tests"]}
        if failure := first_failure(source, sorted(tests)):
            raise RuntimeError(f"{failure} fails without any change")
        for one in chosen:
            test = noticed_by(source, one)
            survivors += not test
            print(f"{row(one)} {f'`{test}`' if test else SURVIVED} |", flush=True)
            print(f"{one['name']}: {test or SURVIVED}", file=sys.stderr, flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
