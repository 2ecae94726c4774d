"""An arm's best networks with their attention switched off: their scores, and whether that makes any difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnconv.inactive import is_inactive
from attnconv.study import statistics
from attnconv.study.arm import Record
from attnconv.study.statistics import Estimate


@dataclass(frozen=True)
class SwitchedOff:
    """Scores of the finished runs of an arm that measured it.

    ``on`` and ``off`` are the scores of the same networks, with and without attention. ``logits_moved`` (of their norm)
    and ``predictions_changed`` (percent) are the largest of any run. ``inactive`` counts runs by the rule of
    `attnconv.inactive`; ``runs`` all finished ones, of which some may not have measured it.
    """

    on: Estimate
    off: Estimate
    logits_moved: float
    predictions_changed: float
    inactive: int
    runs: int

    @property
    def verdict(self) -> str:
        """Return "inactive", "inactive in 3 of 5 runs" or "active"."""
        missing = self.runs - self.off.n
        unknown = f", {missing} of {self.runs} runs not measured" if missing else ""
        if self.inactive == self.runs:
            return "inactive"
        if self.inactive:
            return f"inactive in {self.inactive} of {self.off.n} runs{unknown}"
        return f"active{unknown}"


def switched_off(done: Sequence[Record]) -> SwitchedOff | None:
    """Return the summary of an arm's finished runs; None if none of them measured it, as of plain networks."""
    known = [record for record in done if "off_score" in record]
    if not known:
        return None
    measured: list[dict[str, Any]] = [record["attention_off"] for record in known]
    moved, changed = ([off[name] for off in measured] for name in ("logits_moved", "predictions_changed"))
    return SwitchedOff(
        on=statistics.estimate([record["on_score"] for record in known]),
        off=statistics.estimate([record["off_score"] for record in known]),
        logits_moved=max(moved),
        predictions_changed=max(changed),
        inactive=sum(map(is_inactive, moved, changed)),
        runs=len(done),
    )
