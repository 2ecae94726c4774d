"""The records of one arm's runs, and the scores to be read from them.

A record is a mapping: arm, seed, state (one of STATES), and of a run that trained score, best_score, history (epoch,
val_score, seconds), params, flops, images, commit, machine, device, torch and version; of one that has measured what
its attention does also attention_off, and on_score and off_score of its best network. Scores are percentages; which
of a run's own numbers they are, `attnconv.study.compared` has chosen.

How each state enters. done: its last epoch's score. diverged: the score it ended with, that is the last finite one
of its validations, or ``chance`` if it never finished an epoch; leaving it out would make an arm better for diverging.
failed, running, missing: they have no score.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from attnconv import checks

Record = Mapping[str, Any]

STATES = ("done", "diverged", "failed", "running", "missing")


class Arm:
    """The records of one arm, and the scores by seed."""

    def __init__(self, records: Sequence[Record], chance: float) -> None:
        self.records = records
        self.chance = chance
        self.done = [r for r in records if r["state"] == "done"]
        self.diverged = [r for r in records if r["state"] == "diverged"]
        scored = self.done + self.diverged
        self.last: dict[int, float] = {r["seed"]: self.at(r, None) for r in scored}
        self.best: dict[int, float] = {r["seed"]: self._best(r) for r in scored}
        self.finished: dict[int, float] = {r["seed"]: self.last[r["seed"]] for r in self.done}

    def at(self, record: Record, epochs: int | None) -> float:
        """A run's score after so many epochs, or at its end; a diverged run keeps the score that it ended with."""
        if epochs is None and record["state"] == "done":
            return checks.number(f"score of {record['arm']}, seed {record['seed']},", record["score"])
        scores = validated(record)
        within = [epoch for epoch in scores if epochs is None or epoch <= epochs]
        return scores[max(within)] if within else self.chance

    def _best(self, record: Record) -> float:
        if record["state"] == "done":
            return checks.number(f"best score of {record['arm']}, seed {record['seed']},", record["best_score"])
        return max(validated(record).values(), default=self.chance)

    def known(self, key: str) -> Any:
        """What the first run that knows it says; runs of an arm have one network."""
        return next((r[key] for r in self.records if r.get(key) is not None), None)


def validated(record: Record) -> dict[int, float]:
    """The finite validation scores of a run by epoch."""
    rows = record.get("history") or ()
    return {int(row["epoch"]): row["val_score"] for row in rows if math.isfinite(row["val_score"])}


def arms_of(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records by arm, in their order; InputError for none, an unknown state, or two of one run."""
    arms: dict[str, list[Record]] = {}
    for record in records:
        checks.one_of("state of a run", record["state"], STATES)
        arms.setdefault(record["arm"], []).append(record)
    if not arms:
        raise checks.InputError("no records of runs to compare")
    (run, times), *_ = Counter((record["arm"], record["seed"]) for record in records).most_common(1)
    if times > 1:
        raise checks.InputError(f"{times} records of the run of {run[0]} with seed {run[1]}; one is the rule")
    return arms
