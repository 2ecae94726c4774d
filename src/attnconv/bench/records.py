"""Records of benchmarks as lines of JSON: made, appended to a file, read back.

Each line stands alone: what was measured, on what, from which commit, by which command.
"""

import json
import os
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from attnconv import checks, files
from attnconv.bench.machine import machine

FORMAT = 1


def provenance(
    device: torch.device, seed: int, *, commit: str | None, command: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return what the records of one command share; rounds pair between the records of one session."""
    return {
        "session": secrets.token_hex(4),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv if command is None else command),
        "seed": seed,
        "commit": commit,
        "machine": machine(device),
    }


def append(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Add lines to a file, and have them on disk before returning; a cut-off last line makes room for them.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            files.require(path, at_most=files.TABLE)
        with path.open("a+b") as file:
            file.seek(0)
            text = file.read()
            tail = text[text.rfind(b"\n") + 1 :]
            if tail and _parsed(tail) is None:
                file.truncate(len(text) - len(tail))
            elif tail:
                file.write(b"\n")
            file.write("".join(json.dumps(line) + "\n" for line in records).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise checks.InputError(f"cannot write {path}: {error.strerror or error}") from error


def load(path: Path) -> list[dict[str, Any]]:
    """The records of a file. A last line that was cut off, as by a full disk or a kill, is left out.

    Raises:
        InputError: no such file, a line within it that is no record, or one of another format.
    """
    try:
        text = files.read_bytes(path, at_most=files.TABLE)
    except OSError as error:
        raise checks.InputError(f"cannot read {path}: {error.strerror or error}") from error
    *lines, last = text.split(b"\n")
    if _parsed(last) is not None:
        lines.append(last)
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        value = _parsed(line)
        if value is None or "format" not in value:
            raise checks.InputError(f"{path}, line {number} is no record of a benchmark")
        if value["format"] != FORMAT:
            raise checks.InputError(
                f"{path}, line {number} has format {value['format']!r}; this version reads {FORMAT}"
            )
        found.append(value)
    return found


def load_folder(folder: Path) -> list[dict[str, Any]]:
    """The records of all *.jsonl files of a folder, file by file.

    Raises:
        InputError: there is none.
    """
    if not folder.is_dir():
        raise checks.InputError(f"no folder at {folder}; attnconv bench ops, layers or models makes one")
    found = [record for path in sorted(folder.glob("*.jsonl")) for record in load(path)]
    if not found:
        raise checks.InputError(f"no records in {folder}; attnconv bench ops, layers or models makes some")
    return found


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = checks.from_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
