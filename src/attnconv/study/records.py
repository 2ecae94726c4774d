"""One record a run: what a table, a curve and a test are made of.

A record's "state" is "done", "diverged" (its loss was not finite; kept as it is), "failed" (tried again the next
time), "running" or "missing" (not begun, or interrupted). Numbers that a run has not come to are None; "history" holds
the rows of metrics.csv so far, and "top1" is of the last epoch of a run that is done.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnconv import checks, files
from attnconv.files import is_locked, replacing
from attnconv.report.page import read_metrics
from attnconv.study.comparison import STATES
from attnconv.study.folder import RESULTS, StudyFolder, facts_of, read_note, result_of
from attnconv.study.plan import PlannedRun, Study

FORMAT = 1
OF_PIXELS = ("miou", "best_miou")  # of runs in which each pixel has a label
COUNTS = ("epoch", "step")  # columns of metrics.csv that are whole numbers


def record(folder: StudyFolder, planned: PlannedRun) -> dict[str, Any]:
    """Return the record of one run, from its folder; torch is not needed for it, and nothing is written."""
    run = folder.run(planned)
    facts, result = facts_of(run.path), result_of(run.path)
    sessions = facts.get("sessions", [])
    last = sessions[-1] if sessions else {}
    history = _history(run.metrics)
    state, reason = _state(folder, planned, len(history))
    found = {
        "format": FORMAT,
        "arm": planned.arm,
        "seed": planned.seed,
        "state": state,
        "reason": reason,
        **{name: (result or {}).get(name) for name in RESULTS},
        **{name: result[name] for name in OF_PIXELS if result and name in result},
        **({"attention_off": result["attention_off"]} if result and "attention_off" in result else {}),
        "params": facts.get("params"),
        "flops": facts.get("flops"),  # of one image forward, 2 a multiply-add
        "images": facts.get("images"),  # of training, an epoch
        "classes": facts.get("classes"),
        "history": history,
        "commit": _all(sessions, "commit"),
        "machine": _all(sessions, "machine"),
        "device": last.get("device"),
        "threads": last.get("threads"),
        "torch": _all(sessions, "torch"),
        "version": _all(sessions, "version"),
    }
    if result is None and history:
        score = "val_miou" if "val_miou" in history[0] else "val_top1"
        if any(name not in history[0] for name in ("epoch", "val_top1")):
            raise checks.InputError(f"{run.metrics} is damaged: it has no column epoch or val_top1")
        best = max(history, key=lambda row: row[score])  # the first of equals, as a run counts
        found |= {"best_top1": best["val_top1"], "best_epoch": best["epoch"]}
        found |= {"best_miou": best["val_miou"]} if "val_miou" in best else {}
    return found


def records(folder: StudyFolder, study: Study) -> list[dict[str, Any]]:
    """Return the records of all runs, in the order of the plan; of an archive what it holds, and the rest missing."""
    if not is_archive(folder):
        return [record(folder, planned) for planned in study.runs()]
    found = read_records(folder.records)
    known = {(one.get("arm"), one.get("seed")) for one in found}
    missing = [planned for planned in study.runs() if (planned.arm, planned.seed) not in known]
    return found + [{"arm": run.arm, "seed": run.seed, "state": "missing", "reason": None} for run in missing]


def is_archive(folder: StudyFolder) -> bool:
    """True if the plan and the records of runs were kept, and not the runs.

    A study that was stopped before its first run began has no runs either: all its records are of missing ones.
    """
    if (folder.path / "runs").exists() or not folder.records.exists():
        return False
    return any(one["state"] != "missing" or one.get("history") for one in read_records(folder.records))


def write_records(folder: StudyFolder, study: Study) -> list[dict[str, Any]]:
    """Make records.jsonl anew; return what it holds."""
    found = records(folder, study)
    with replacing(folder.records) as file:
        file.write("".join(json.dumps(one) + "\n" for one in found).encode())
    return found


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records in a file; InputError if it cannot be read, a line is no record, or one has another format."""
    try:
        lines = files.read_text(path, at_most=files.TABLE).splitlines()
    except checks.InputError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise checks.InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            value = checks.from_json(line)
        except ValueError:
            value = None
        if not isinstance(value, dict) or "format" not in value:
            raise checks.InputError(f"{path}, line {number} is no record of a study")
        if value["format"] != FORMAT:
            raise checks.InputError(
                f"{path}, line {number} has format {value['format']!r}; this version reads {FORMAT}"
            )
        if lacking := [name for name in ("arm", "seed", "state") if name not in value]:
            raise checks.InputError(f"{path}, line {number} is damaged: it has no {lacking[0]}")
        checks.one_of(f"state in {path}, line {number}:", value["state"], STATES)
        found.append(value)
    return found


def counts(found: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return how many records are of each state."""
    return {state: sum(one["state"] == state for one in found) for state in STATES}


def _state(folder: StudyFolder, planned: PlannedRun, epochs: int) -> tuple[str, str | None]:
    run = folder.run(planned).path
    if result_of(run) is not None:
        return "done", None
    if (note := read_note(run, "diverged")) is not None:
        return "diverged", note.get("reason")
    if is_locked(run):
        return "running", f"{epochs} of {planned.config.epochs} epochs done"
    if (note := read_note(run, "failed")) is not None:
        return "failed", note.get("reason")
    if read_note(run, "result") is not None:
        return "failed", "its result.json is damaged"
    return "missing", f"interrupted after {epochs} of {planned.config.epochs} epochs" if epochs else None


def _history(metrics: Path) -> list[dict[str, Any]]:
    if not metrics.exists():
        return []
    rows = read_metrics(metrics.parent)
    return [{name: int(value) if name in COUNTS else value for name, value in row.items()} for row in rows]


def _all(sessions: list[dict[str, Any]], name: str) -> str | None:
    """Return the value of the run's processes; if one went on where another stopped, and differs, both, in order."""
    return " + ".join(dict.fromkeys(str(s[name]) for s in sessions if s.get(name) is not None)) or None
