"""Records of contests as lines of JSON: made, appended to a file, read back.

Each line stands alone: what was measured, on what, from which commit, by which command.
"""

import json
import os
import secrets
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnconv import checks, files
from attnconv.bench.contest import Contest, Contestant, Settings
from attnconv.bench.machine import machine
from attnconv.bench.timing import Outcome

FORMAT = 1


def origin(settings: Settings, *, commit: str | None, command: Sequence[str] | None = None) -> dict[str, Any]:
    """What the records of one command share; rounds pair between the records of one session."""
    return {
        "session": secrets.token_hex(4),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv if command is None else command),
        "seed": settings.seed,
        "commit": commit,
        "machine": machine(settings.device),
    }


def record(
    contest: Contest,
    contestant: Contestant,
    outcome: Outcome,
    settings: Settings,
    rates: Mapping[str, float],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """One contestant's line: seconds of a call in each round, or the reason why there are none."""
    flops = contestant.flops
    dtype = str(settings.dtype).removeprefix("torch.")
    median = statistics.median(outcome.seconds) if outcome.seconds else None
    floor = None
    if flops is not None and contest.exps is not None:
        floor = flops / rates["matmul_flops_per_s"] + contest.exps / rates["exps_per_s"]
    fraction = flops / median / rates["matmul_flops_per_s"] if flops is not None and median else None
    return {
        "format": FORMAT,
        "study": contest.study,
        "case": contest.case,
        "size": contest.size,
        "shape": dict(contest.shape),
        "pass": contest.what,
        "dtype": dtype,
        "contestant": outcome.name,
        "baseline": contest.baseline,
        "seconds": list(outcome.seconds),
        "median_seconds": median,
        "peak_bytes": outcome.peak_bytes,
        "why_not": outcome.why_not,
        "flops": flops,
        "exps": contest.exps,
        "floor_seconds": floor,
        "peak_fraction": fraction,
        **rates,
        **origin,
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
