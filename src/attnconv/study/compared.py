"""From a study's plan and its records to one comparison a block."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attnconv import checks
from attnconv.study.arm import STATES
from attnconv.study.comparison import Comparison, compare
from attnconv.study.plan import Study
from attnconv.study.scores import SCORES, Score
from attnconv.study.statistics import holm

NUMBERS = ("params", "flops", "images", "classes")
MEASURED = ("logits_moved", "predictions_changed")


def comparisons(study: Study, records: Sequence[Mapping[str, Any]]) -> dict[str, Comparison]:
    """Block -> the comparison of its arms, under their names without the block; "" is the block of arms without one.

    Raises:
        InputError: a record of an arm or a seed that the study has not, or one that is damaged.
    """
    scored = [_scored(study, record) for record in records]
    found = {}
    for block, arms in study.blocks().items():
        inside = [{**record, "arm": _own(record["arm"])} for record in scored if record["arm"] in arms]
        order = {_own(arm): i for i, arm in enumerate(arms)}
        inside.sort(key=lambda record: order[record["arm"]])  # stable: seeds stay in order
        score = SCORES[study.score_of(block)].name
        found[block] = compare(inside, baseline=study.baseline, chance=chance_of(inside, score), score=score)
    return found


def chance_of(records: Sequence[Mapping[str, Any]], score: str) -> float:
    """What a run that diverged in its first epoch counts with, in percent: the score of guessing one of the classes.

    0 where the records do not say how many there are, and for mean IoU, which depends on the classes' areas as well.
    """
    guesses = {"top-1": 1, "top-5": 5}.get(score, 0)
    classes = next((record["classes"] for record in records if record.get("classes")), None)
    return 100 * min(guesses, classes) / classes if classes else 0.0


def _own(arm: str) -> str:
    return arm.rpartition("/")[2]


def _scored(study: Study, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the study's score as well, under the names that `compare` reads."""
    run = f"the record of {record.get('arm')!r} with seed {record.get('seed')!r}"
    checks.one_of(f"arm in {run}:", record.get("arm"), study.arms)
    checks.one_of(f"seed in {run}:", record.get("seed"), study.seeds)
    checks.one_of(f"state in {run}:", record.get("state"), STATES)
    for name in NUMBERS:
        if record.get(name) is not None:
            checks.number(f"{name} in {run}", record[name])
    score = SCORES[study.score_of(record["arm"].rpartition("/")[0])]
    if not isinstance(rows := record.get("history") or [], list):
        raise checks.InputError(f"{run} is damaged: its history is {rows!r}")
    history = [_epoch(row, score.column, run) for row in rows]
    found = {**record, "history": history}
    if record["state"] == "done":
        found["score"] = checks.number(f"{score.key} in {run}", record.get(score.key))
        known = f"best_{score.key}"
        best = record[known] if known in record else max((row["val_score"] for row in history), default=None)
        found["best_score"] = checks.number(f"best {score.key} in {run}", best)
        if record.get("attention_off") is not None:
            found |= _measured(record, score, history, run)
    return found


def _measured(
    record: Mapping[str, Any], score: Score, history: Sequence[Mapping[str, Any]], run: str
) -> dict[str, Any]:
    """The scores of a run's best network with attention and without, if its logits were finite.

    By top-5 that network's epoch need not be the one of the best top-5.
    """
    if not isinstance(off := record["attention_off"], Mapping):
        raise checks.InputError(f"{run} is damaged: its attention_off is {off!r}")
    for name in MEASURED:
        if isinstance(off.get(name), float) and not math.isfinite(off[name]):
            return {}
        checks.number(f"{name} of attention_off in {run}", off.get(name))
    off_score = checks.number(f"{score.key} of attention_off in {run}", off.get(score.key))
    best = record.get("best_epoch")
    on = [row["val_score"] for row in history if row["epoch"] == best]
    if not on:
        raise checks.InputError(f"{run} is damaged: its best epoch is {best!r}, which its history has not")
    return {"on_score": checks.number(f"{score.key} of the best epoch in {run}", on[0]), "off_score": off_score}


def _epoch(row: Any, column: str, run: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise checks.InputError(f"{run} is damaged: an epoch of its history is {row!r}")
    for name in ("epoch", column, "seconds"):
        if isinstance(row.get(name), bool) or not isinstance(row.get(name), (int, float)):
            raise checks.InputError(f"{run} is damaged: {name} of an epoch must be a number, got {row.get(name)!r}")
    if not float(row["epoch"]).is_integer():
        raise checks.InputError(f"{run} is damaged: the number of an epoch must be whole, got {row['epoch']!r}")
    return {**row, "val_score": row[column]}


def holm_over_all(compared: Mapping[str, Comparison]) -> dict[tuple[str, str], float]:
    """(block, arm) -> p after Holm over all tests of the study; a comparison's own is over the block's."""
    tests = {
        (block, row.arm): row.test.permutation.p
        for block, comparison in compared.items()
        for row in comparison.rows
        if row.test.permutation
    }
    return dict(zip(tests, holm(list(tests.values())), strict=True))
