"""One run of a study as a record, and the checks of records that come from a file.

A record is a mapping: arm, seed, state (one of STATES), and of a run that trained score, best_score, history (epoch,
val_score, seconds), params, flops, images, commit, machine, device, torch and version; of one that has measured what
its attention does also attention_off, and on_score and off_score of its best network. Scores are percentages; which of
a run's own numbers they are, `scored` chooses.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attnconv import checks
from attnconv.study.plan import Study

Record = Mapping[str, Any]

STATES = ("done", "diverged", "failed", "running", "missing")
NUMBERS = ("params", "flops", "images", "classes")  # of a record
MEASURED = ("logits_moved", "predictions_changed")  # with attention switched off


def scored(study: Study, record: Record) -> dict[str, Any]:
    """Return a record with the study's score as well, under the names that `attnconv.study.comparison` reads."""
    run = f"the record of {record.get('arm')!r} with seed {record.get('seed')!r}"
    checks.one_of(f"arm in {run}:", record.get("arm"), study.arms)
    checks.one_of(f"seed in {run}:", record.get("seed"), study.seeds)
    for name in NUMBERS:
        if record.get(name) is not None:
            checks.number(f"{name} in {run}", record[name])
    score = study.score_of(record["arm"].rpartition("/")[0])
    if not isinstance(rows := record.get("history") or [], list):
        raise checks.InputError(f"{run} is damaged: its history is {rows!r}")
    history = [_epoch(row, f"val_{score}", run) for row in rows]
    found = {**record, "history": history}
    if record["state"] == "done":
        found["score"] = checks.number(f"{score} in {run}", record.get(score))
        best = record.get(f"best_{score}", max((row["val_score"] for row in history), default=None))
        found["best_score"] = checks.number(f"best {score} in {run}", best)
        if record.get("attention_off") is not None:
            found |= _measured(record, score, history, run)
    return found


def _measured(record: Record, score: str, history: Sequence[Record], run: str) -> dict[str, Any]:
    """Return the scores of a run's best network with attention and without, if its logits were finite.

    By top-5 that network's epoch need not be the one of the best top-5.
    """
    if not isinstance(off := record["attention_off"], Mapping):
        raise checks.InputError(f"{run} is damaged: its attention_off is {off!r}")
    for name in MEASURED:
        if isinstance(off.get(name), float) and not math.isfinite(off[name]):
            return {}
        checks.number(f"{name} of attention_off in {run}", off.get(name))
    off_score = checks.number(f"{score} of attention_off in {run}", off.get(score))
    best = record.get("best_epoch")
    on = [row["val_score"] for row in history if row["epoch"] == best]
    if not on:
        raise checks.InputError(f"{run} is damaged: its best epoch is {best!r}, which its history has not")
    return {"on_score": checks.number(f"{score} of the best epoch in {run}", on[0]), "off_score": off_score}


def _epoch(row: Any, column: str, run: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise checks.InputError(f"{run} is damaged: an epoch of its history is {row!r}")
    for name in ("epoch", column, "seconds"):
        if isinstance(row.get(name), bool) or not isinstance(row.get(name), (int, float)):
            raise checks.InputError(f"{run} is damaged: {name} of an epoch must be a number, got {row.get(name)!r}")
    if not float(row["epoch"]).is_integer():
        raise checks.InputError(f"{run} is damaged: the number of an epoch must be whole, got {row['epoch']!r}")
    return {**row, "val_score": row[column]}
