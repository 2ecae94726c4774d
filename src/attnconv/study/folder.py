"""The folder of a study: its plan, its runs, a record of each, and the changes that are possible once there are runs.

study.yaml is the whole plan. runs/ARM-seedS/ are run folders of `attnconv train`, with facts.json (numbers that
result.json lacks) and, if the run ended so, diverged.json or failed.json; logs/ARM-seedS.txt is the output of their
processes. records.jsonl is derived from them and made anew each time.

Tables, curves and tests use one record a run. Its "state" is "done", "diverged" (the loss was not finite; kept as it
is), "failed" (tried again the next time), "running" or "missing" (not begun, or interrupted). Numbers that do not exist
yet are None; "history" holds the rows of metrics.csv so far, and "top1" is of the last epoch of a finished run. Scores
are percentages; `scored` chooses which of a run's numbers they are.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnconv import __version__, checks, files
from attnconv.bench.records import read_records as read_lines
from attnconv.files import is_half_of, is_locked
from attnconv.report.page import read_metrics
from attnconv.study.plan import PlannedRun, Study
from attnconv.study.plan_file import read_study
from attnconv.train.config import RunConfig, yaml_text, yaml_value
from attnconv.train.run_folder import RunFolder, changes

Record = Mapping[str, Any]

STATES = ("done", "diverged", "failed", "running", "missing")
# Of a record. flops: of one image forward, 2 a multiply-add; images: of training, an epoch.
NUMBERS = ("params", "flops", "images", "classes")
MEASURED = ("logits_moved", "predictions_changed")  # with attention switched off
FORMAT = 1  # of a record
RESULTS = ("top1", "best_top1", "best_epoch", "top5", "loss", "seconds", "train_seconds_per_epoch")  # of result.json
OPTIONAL = ("miou", "best_miou", "attention_off")  # of runs that label pixels, or have attention
COUNTS = ("epoch", "step")  # columns of metrics.csv that are whole numbers
DAMAGE = (KeyError, TypeError, ValueError, OverflowError)  # of reading a record that somebody edited


class StudyFolder:
    """The files of one study. The constructor reads and writes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.plan = self.path / "study.yaml"
        self.records = self.path / "records.jsonl"

    def run(self, planned: PlannedRun) -> RunFolder:
        """Return the folder of a run of the study."""
        return RunFolder(self.path / "runs" / planned.name)

    def log(self, planned: PlannedRun) -> Path:
        """Return the file of its processes' output."""
        return self.path / "logs" / f"{planned.name}.txt"

    def study(self) -> Study:
        """Return the plan; InputError if there is none, or it cannot be read."""
        if not self.plan.exists():
            raise checks.InputError(f"{self.path} holds no study: it has no study.yaml")
        return read_study(self.plan)

    def begun(self, study: Study) -> list[PlannedRun]:
        """Return the runs that have a folder."""
        return [planned for planned in study.runs() if self.run(planned).path.exists()]

    def make(self) -> None:
        """Make the folder; InputError if that fails, or if it holds other files and no study."""
        if self.path.exists() and not self.path.is_dir():
            raise checks.InputError(f"{self.path} is a file; --out must name a folder, or one to be made")
        with checks.explained(f"cannot make the folder {self.path}", OSError):
            there = list(self.path.iterdir()) if self.path.exists() else []
            # A process killed while it wrote the plan leaves a part of it under another name.
            if not self.plan.exists() and not all(is_half_of(self.plan, path) for path in there):
                raise checks.InputError(f"{self.path} holds other files and no study: give another --out")
        files.make_folder(self.path)

    def prepare(self, study: Study, *, threads: int, extend: bool = False, mix_versions: bool = False) -> Study:
        """Make the folder, or use the one that exists; return the study to run, with its number of threads.

        Args:
            threads: CPU threads of each run, if neither ``study`` nor the folder sets them.
            extend: accept arms, seeds, published numbers and texts that the folder does not have.
            mix_versions: go on although some runs were made by another version of this library.
        Raises:
            InputError: the folder holds something else, runs of another plan (the differences are listed), runs whose
                config.yaml differs from the plan, or runs of another version.
        """
        self.make()
        if not self.plan.exists():
            return self._write(dataclasses.replace(study, threads=study.threads or threads))
        stored = self.study()
        study = dataclasses.replace(
            study, threads=study.threads or stored.threads or threads, memory_gb=study.memory_gb or stored.memory_gb
        )
        if self.begun(stored):
            added, changed = differences(stored, study)
            if changed:
                raise checks.InputError(
                    f"{self.path} holds runs of another plan: {'; '.join(changed)}. Give another --out, or undo this"
                )
            if added and not extend:
                raise checks.InputError(
                    f"{self.path} holds runs of another plan: {'; '.join(added)}. --extend accepts that"
                )
        self.require_as_planned(study)
        if not mix_versions:
            self._require_version(study)
        return self._write(study)

    def _write(self, study: Study) -> Study:
        files.write(self.plan, yaml_text(study.to_dict(), sort_keys=False, allow_unicode=True))
        return study

    def require_as_planned(self, study: Study) -> None:
        """Raise InputError unless the plan names each run that was begun, with the configuration that it has."""
        named = {self.run(planned).path for planned in study.runs()}
        runs = self.path / "runs"
        for path in sorted(facts.parent for facts in runs.rglob("facts.json")):
            if path not in named:
                raise checks.InputError(
                    f"study.yaml was changed after run {path.relative_to(runs)} was begun: it does not name that "
                    "run any more; restore it, or move the folder away"
                )
        for planned in self.begun(study):
            path = self.run(planned).config
            if not path.exists():
                continue
            stored = files.parsed(path, yaml_value)
            if changed := changes(RunConfig.from_dict(stored, source=str(path)), planned.config):
                raise checks.InputError(
                    f"study.yaml was changed after run {planned.name} was begun: {'; '.join(changed)}"
                )

    def _require_version(self, study: Study) -> None:
        made: dict[str, int] = {}
        for planned in self.begun(study):
            for version in {session.get("version") for session in facts_of(self.run(planned).path).get("sessions", ())}:
                made[version] = made.get(version, 0) + 1
        if others := {version: count for version, count in made.items() if version != __version__}:
            which = ", ".join(f"{count} of attnconv {version}" for version, count in sorted(others.items()))
            raise checks.InputError(
                f"{self.path} holds runs of another version ({which}; this is {__version__}): their numbers may "
                "differ for that reason alone; give another --out, or --mix-versions to go on"
            )


def read_note(run: Path, name: str) -> dict[str, Any] | None:
    """Return the JSON object of NAME.json in a run's folder; None if there is none."""
    with contextlib.suppress(OSError, ValueError):
        return checks.json_object(files.read_text(run / f"{name}.json"))
    return None


def write_note(run: RunFolder, name: str, value: dict[str, Any]) -> None:
    """Write NAME.json there."""
    files.make_folder(run.path)
    files.write(run.path / f"{name}.json", json.dumps(value, indent=2) + "\n")


def facts_of(run: Path) -> dict[str, Any]:
    """Return the facts that a run's processes noted; {} before its data were loaded.

    "sessions" is a list of objects, one a process; without those that are damaged.
    """
    found = read_note(run, "facts") or {}
    sessions = found.get("sessions")
    kept = [one for one in sessions if isinstance(one, dict)] if isinstance(sessions, list) else []
    return {**found, "sessions": kept} if found else {}


def result_of(run: Path) -> dict[str, Any] | None:
    """Return the contents of a run's result.json; None unless all its numbers are there."""
    found = read_note(run, "result")
    numbers = found is not None and all(isinstance(found.get(name), (int, float)) for name in RESULTS)
    return found if numbers else None


def differences(stored: Study, now: Study) -> tuple[list[str], list[str]]:
    """Return the additions of ``now`` to ``stored``, and the differences that would change existing runs."""
    added, changed = [], []
    for what, then, new in (("arm", stored.arms, now.arms), ("seed", stored.seeds, now.seeds)):
        added += [f"{what} {name} is new" for name in new if name not in then]
        changed += [f"{what} {name} is gone" for name in then if name not in new]
    seed = stored.seeds[0]
    for arm in stored.arms:
        if arm in now.arms:
            changed += [f"arm {arm}: {text}" for text in changes(stored.config(arm, seed), now.config(arm, seed))]
    for found, names in ((changed, ("baseline", "score", "threads")), (added, ("name", "text", "scale", "published"))):
        for what in names:
            if (then := getattr(stored, what)) != (new := getattr(now, what)):
                found.append(f"{what} was {then!r} and is now {new!r}")
    return added, changed


def record(folder: StudyFolder, planned: PlannedRun) -> dict[str, Any]:
    """Return the record of one run, read from its folder, without torch."""
    run = folder.run(planned)
    facts, result = facts_of(run.path), result_of(run.path)
    sessions = facts.get("sessions", [])
    last = sessions[-1] if sessions else {}
    history = _history(run.metrics)
    state, reason = _state(folder, planned, len(history))
    return {
        "format": FORMAT,
        "arm": planned.arm,
        "seed": planned.seed,
        "state": state,
        "reason": reason,
        **{name: (result or {}).get(name) for name in RESULTS},
        **{name: result[name] for name in OPTIONAL if result and name in result},
        **{name: facts.get(name) for name in NUMBERS},
        "history": history,
        "commit": _all(sessions, "commit"),
        "machine": _all(sessions, "machine"),
        "device": last.get("device"),
        "threads": last.get("threads"),
        "torch": _all(sessions, "torch"),
        "version": _all(sessions, "version"),
        "code": _all(sessions, "code"),  # of your own: modules, and the starts of their files' digests
    }


def records(folder: StudyFolder, study: Study) -> list[dict[str, Any]]:
    """Return the records of all runs, in the order of the plan; those that an archive lacks are missing."""
    if not is_archive(folder):
        return [record(folder, planned) for planned in study.runs()]
    found = read_records(folder.records)
    known = {(one.get("arm"), one.get("seed")) for one in found}
    missing = [planned for planned in study.runs() if (planned.arm, planned.seed) not in known]
    return found + [{"arm": run.arm, "seed": run.seed, "state": "missing", "reason": None} for run in missing]


def is_archive(folder: StudyFolder) -> bool:
    """True if the folder holds plan and records without the runs.

    A study that was stopped before its first run began has no runs either, but all its records are of missing runs.
    """
    if (folder.path / "runs").exists() or not folder.records.exists():
        return False
    return any(one["state"] != "missing" or one.get("history") for one in read_records(folder.records))


def write_records(folder: StudyFolder, study: Study) -> list[dict[str, Any]]:
    """Make records.jsonl anew; return its records."""
    found = records(folder, study)
    files.write(folder.records, "".join(json.dumps(one) + "\n" for one in found))
    return found


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records in a file; InputError if it cannot be read, a line is no record, or one has another format."""
    found = read_lines(path, kind="study", version=FORMAT)
    for number, value in enumerate(found, start=1):
        if lacking := [name for name in ("arm", "seed", "state") if name not in value]:
            raise checks.InputError(f"{path}, line {number} is damaged: it has no {lacking[0]}")
        checks.one_of(f"state in {path}, line {number}:", value["state"], STATES)
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
    """Return the value of the run's processes, all of them in order if they differ."""
    return " + ".join(dict.fromkeys(str(s[name]) for s in sessions if s.get(name) is not None)) or None


def scored(study: Study, record: Record) -> dict[str, Any]:
    """Return a record with the study's score as well, under the names that `attnconv.study.comparison` reads.

    A finished run that measured its best network without attention has ``on_score`` and ``off_score`` too, unless its
    logits were not finite.

    Raises:
        InputError: the arm or the seed is none of the study's, or a number is none.
    """
    run = f"the record of {record.get('arm')!r} with seed {record.get('seed')!r}"
    checks.one_of(f"arm in {run}:", record.get("arm"), study.arms)
    checks.one_of(f"seed in {run}:", record.get("seed"), study.seeds)
    for name in NUMBERS:
        if record.get(name) is not None:
            checks.number(f"{name} in {run}", record[name])
    score = study.score_of(record["arm"].rpartition("/")[0])
    with checks.explained(f"{run} is damaged: its history holds no epochs", *DAMAGE, reason=repr):
        history = [
            {
                **row,
                "epoch": int(row["epoch"]),
                "val_score": float(row[f"val_{score}"]),
                "seconds": float(row["seconds"]),
            }
            for row in record.get("history") or ()
        ]
    found = {**record, "history": history}
    if record["state"] != "done":
        return found
    found["score"] = checks.number(f"{score} in {run}", record.get(score))
    best = record.get(f"best_{score}", max((row["val_score"] for row in history), default=None))
    found["best_score"] = checks.number(f"best {score} in {run}", best)
    if (off := record.get("attention_off")) is None:
        return found
    with checks.explained(f"{run} is damaged: it lacks attention_off or its best epoch", *DAMAGE, reason=repr):
        # By top-5 the best epoch need not be the one of the best top-5.
        (on,) = [row["val_score"] for row in history if row["epoch"] == record.get("best_epoch")]
        measured = {"on_score": on, "off_score": float(off[score])}
        finite = all(math.isfinite(off[name]) for name in MEASURED)
    return found | measured if finite else found
