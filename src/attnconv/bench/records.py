"""Records of benchmarks and studies as lines of JSON.

Each line stands alone, with the measurement, the machine, the commit and the command.
"""

import json
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
    """Return the provenance of all records of one command; rounds pair between the records of one session."""
    from attnconv.bench.machine import machine  # here: it loads torch, which reading records does not need

    return {
        "session": secrets.token_hex(4),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv if command is None else command),
        "seed": seed,
        "commit": commit,
        "machine": machine(device),
    }


def append(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Add lines to a file, which is replaced as a whole, without a last line that was cut off.

    Raises:
        InputError: the file cannot be read or written.
    """
    files.make_folder(path.parent)
    old = files.read_text(path, at_most=files.TABLE) if path.exists() else ""
    lines = [line for line in old.split("\n") if line]
    if lines and not old.endswith("\n") and checks.json_object(lines[-1]) is None:
        lines.pop()
    files.write(path, "".join(f"{line}\n" for line in (*lines, *map(json.dumps, records))))


def read_records(path: Path, *, kind: str, version: int, cut_off: bool = False) -> list[dict[str, Any]]:
    """Return the records of a file, an object of JSON a line; blank lines are left out.

    Args:
        kind: of record, for messages.
        version: the format of each record.
        cut_off: leave out a last line that was cut off, as by a full disk or a kill.
    Raises:
        InputError: the file cannot be read, or a line is no record or has another format.
    """
    with checks.explained(f"cannot read {path}", OSError, UnicodeDecodeError):
        text = files.read_text(path, at_most=files.TABLE)
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
