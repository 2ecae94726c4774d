"""The README's Python and that of two other pages runs, and the README's links and files exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MODELS = (ROOT / "docs" / "models.md").read_text()
EXPLAIN = (ROOT / "docs" / "explain.md").read_text()
BLOCKS = re.findall(r"```python\n((?:(?!```).)*?)```\n\n```text\n(.*?)```", README + MODELS + EXPLAIN, re.S)
LINKS = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
PATHS = re.findall(r"`(tests/[\w/.]+)`", README)


def test_there_is_something_to_check():
    assert README.count("```python") == 3
    assert MODELS.count("```python") == 3  # one of them downloads weights, and has nothing printed below it
    assert EXPLAIN.count("```python") == 1
    assert len(BLOCKS) == 6
    assert len(LINKS) >= 3
    assert len(PATHS) >= 5


@pytest.mark.parametrize(("block", "printed"), BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_print_what_stands_below_them(block, printed, tmp_path):
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed


@pytest.mark.parametrize("path", sorted({*LINKS, *PATHS}))
def test_files_that_it_names_exist(path):
    assert (ROOT / path).exists()


def test_commands_that_it_names_exist():
    from attnconv.cli import COMMANDS

    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S))
    named = re.findall(r"^attnconv ([\w-]+)", shell, re.M)
    assert len(named) >= 5
    assert set(named) <= set(COMMANDS)
