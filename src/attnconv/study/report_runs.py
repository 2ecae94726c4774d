"""The list of a study's runs, and what of it was not run."""

from collections.abc import Mapping, Sequence
from typing import Any

from attnconv.report.records import short_commit
from attnconv.report.study_page import Items, Part, TableData
from attnconv.study.comparison_table import NONE
from attnconv.study.plan import Study
from attnconv.study.scores import SCORES

Record = Mapping[str, Any]
NOTED = ("version", "torch", "device", "threads", "machine")  # of a record
UNDONE = ("failed", "running", "missing")


def run_table(study: Study, records: Sequence[Record]) -> TableData:
    """A row a run, by arm and seed; those that diverged or failed stand out."""
    names = dict.fromkeys(SCORES[study.score_of(block)].name for block in study.blocks())
    name = next(iter(names)) if len(names) == 1 else "score"
    scores = (f"{name}, last", f"{name}, best")
    header = ("arm", "seed", "state", *scores, "epochs", "training s", "commit", *NOTED, "remark")
    order = {arm: i for i, arm in enumerate(study.arms)}
    rows, marked = [], []
    for record in sorted(records, key=lambda record: order[record["arm"]]):
        history = record.get("history") or ()
        score = SCORES[study.score_of(record["arm"].rpartition("/")[0])]
        last = record.get(score.key) if record["state"] == "done" else history[-1][score.column] if history else None
        best = max((one for row in history if (one := row[score.column]) == one), default=None)
        if record["state"] in ("diverged", "failed"):
            marked.append(len(rows))
        rows.append(
            (
                *(record["arm"], str(record["seed"]), record["state"], _score(last), _score(best), str(len(history))),
                f"{sum(row['seconds'] for row in history):,.1f}" if history else NONE,
                short_commit(record.get("commit") or NONE),
                *(str(record.get(key) or NONE) for key in (*NOTED, "reason")),
            )
        )
    return TableData(header, rows, marked)


def not_run(study: Study, records: Sequence[Record]) -> list[Part]:
    """The runs that came to no end, by arm and reason; and the published numbers without a run of ours."""
    undone: dict[tuple[str, str, str], list[int]] = {}
    for record in records:
        if record["state"] in UNDONE:
            key = (record["arm"], record["state"], record.get("reason") or NONE)
            undone.setdefault(key, []).append(record["seed"])
    found: list[Part] = []
    if undone:
        order = {arm: i for i, arm in enumerate(study.arms)}
        rows = [
            (arm, state, ", ".join(map(str, seeds)), reason)
            for (arm, state, reason), seeds in sorted(undone.items(), key=lambda pair: order[pair[0][0]])
        ]
        found.append(TableData(("arm", "state", "seeds", "reason"), rows))
    else:
        found.append("Every run of the plan came to an end.")
    with_runs = {record["arm"] for record in records if record["state"] in ("done", "diverged")}
    if alone := [arm for arm in study.published if arm not in with_runs]:
        found.append("Published numbers without a run of ours:")
        found.append(
            Items([f"{arm}: {study.published[arm]['value']:g}, {study.published[arm]['source']}" for arm in alone])
        )
    return found


def _score(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
