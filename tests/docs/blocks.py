"""The code blocks of README, CONTRIBUTING and docs, and the effect of the command lines in them."""

import contextlib
import io
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from markdown_it import MarkdownIt

from attnconv.cli import _imports, parse
from attnconv.cli.flags import NO_SURGERY
from attnconv.cli.train import NO_BASE

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# On a page with this sentence, Python blocks share their names.
ONE_PROGRAM = "page is one program"
CLIENTS = "# needs attnconv[clients]"  # the first line of a Python block that calls other libraries
COMMANDS = ("attnconv", "make", "pip", "pytest", "python", "srun", "torchrun")  # what shell blocks may call
STUB = '#!/bin/bash\nprintf "%s\\0" "${0##*/}" "$@" >> "$CALLS"; printf "\\n" >> "$CALLS"\n'


@dataclass(frozen=True)
class Block:
    """A code block of a page; an indented one has ``language`` ""."""

    page: str
    line: int
    language: str
    text: str
    shown: str = ""  # the ```text block that follows

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str) -> list[Block]:
    tokens = MarkdownIt().enable("table").parse(text)
    found = []
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type in ("fence", "code_block"):
            shown = after.content if after and after.type == "fence" and after.info == "text" else ""
            found.append(Block(page, token.map[0] + 1, token.info, token.content, shown))
    return found


def pages_blocks() -> list[list[Block]]:
    return [blocks_of(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))) for path in PAGES]


def programs(blocks: list[Block], text: str) -> list[list[Block]]:
    """Return the Python blocks of a page with this ``text``, in lists that share their names."""
    python = [block for block in blocks if block.language == "python"]
    return [python] if ONE_PROGRAM in " ".join(text.split()) else [[block] for block in python]


def run_python(program, folder):
    """Run blocks that share their names, each in ``folder``; AssertionError if one prints something else."""
    names = {"__name__": "__main__"}
    for block in program:
        output = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(output), torch.random.fork_rng():
            exec(compile(block.text, str(block), "exec"), names)
        assert output.getvalue() == block.shown, f"{block}: the output differs from the block below it"


def files_of(blocks: list[Block]) -> dict[str, str]:
    """Return the files that a page tells its reader to write: blocks that begin \"\"\"NAME.py: or # NAME.yaml: ."""
    named = {re.match(r'(?:"""|# )(\w+\.(?:py|yaml)): ', block.text): block.text for block in blocks}
    return {found[1]: text for found, text in named.items() if found}


def calls_of(text: str, folder: Path) -> list[list[str]]:
    """Return the programs that a shell script calls, as lists of words; it can call only those of COMMANDS."""
    stubs = folder / ".venv" / "bin"
    stubs.mkdir(parents=True)
    for name in COMMANDS:
        (stubs / name).write_text(STUB)
        (stubs / name).chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    done = subprocess.run(
        ["/bin/bash", "-eu", "-c", text],
        cwd=folder,
        env={"PATH": str(stubs), "CALLS": str(calls)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return [call.split("\0") for call in calls.read_text().split("\0\n")[:-1]]


def settings_of(command: str):
    """Return the configuration of a command, or None if it starts no new run; InputError if it is wrong."""
    program, *arguments = shlex.split(command)
    assert program == "attnconv"
    arguments, _ = _imports(arguments)
    _, bound = parse(arguments)
    given = bound.arguments
    if arguments[0] not in ("train", "lr-find") or given.get("resume") or given.get("list_recipes"):
        return None
    return given.get("base", NO_BASE).settings(given.get("options", {}), given.get("surgery", NO_SURGERY))
