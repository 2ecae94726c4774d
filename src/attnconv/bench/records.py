"""Records as lines of JSON: those of benchmarks made, appended to a file, read back; those of studies read, too.

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
from typing import TYPE_CHECKING, Any

from attnconv import checks, files

if TYPE_CHECKING:
    import torch

FORMAT = 1


def provenance(
    device: "torch.device", seed: int, *, commit: str | None, command: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return what the records of one command share; rounds pair between the records of one session."""
    from attnconv.bench.machine import machine  # which loads torch, and reading records needs none of it

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
            if tail and checks.json_object(tail) is None:
                file.truncate(len(text) - len(tail))
            elif tail:
                file.write(b"\n")
            file.write("".join(json.dumps(line) + "\n" for line in records).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise checks.InputError(f"cannot write {path}: {error.strerror or error}") from error


def read_records(path: Path, *, kind: str, version: int, cut_off: bool = False) -> list[dict[str, Any]]:
    """Return the records of a file, an object of JSON a line; blank lines are left out.

    Args:
        kind: what they are records of, for messages.
        version: the format that each must have.
        cut_off: leave out a last line that was cut off, as by a full disk or a kill.
    Raises:
        InputError: the file cannot be read, a line is no record, or one of another format.
    """
    try:
        text = files.read_text(path, at_most=files.TABLE)
    except (OSError, UnicodeDecodeError) as error:
        raise checks.InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    lines = text.split("\n")
    if cut_off and checks.json_object(lines[-1]) is None:
        lines.pop()
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        value = checks.json_object(line)
        if value is None or "format" not in value:
            raise checks.InputError(f"{path}, line {number} is no record of a {kind}")
        if value["format"] != version:
            raise checks.InputError(
                f"{path}, line {number} has format {value['format']!r}; this version reads {version}"
            )
        found.append(value)
    return found


def load(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file, without a last line that was cut off; errors as `read_records`'s."""
    return read_records(path, kind="benchmark", version=FORMAT, cut_off=True)


def load_folder(folder: Path) -> list[dict[str, Any]]:
    """Return the records of all *.jsonl files of a folder, file by file.

    Raises:
        InputError: there is none.
    """
    if not folder.is_dir():
        raise checks.InputError(f"no folder at {folder}; attnconv bench ops, layers or models makes one")
    found = [record for path in sorted(folder.glob("*.jsonl")) for record in load(path)]
    if not found:
        raise checks.InputError(f"no records in {folder}; attnconv bench ops, layers or models makes some")
    return found
