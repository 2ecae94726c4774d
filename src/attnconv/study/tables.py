"""The comparisons of a study as sentences, as tables of text, and as rows for CSV files.

The sentences and the first table give the verdict; the other tables hold costs, other readings of the same runs, and
scores with attention switched off. summary.csv has a row of ten numbers for each arm; details.csv every number
unrounded, runs.csv every run, and epochs.csv every epoch.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attnconv import files
from attnconv.inactive import LOGITS_MOVED, PREDICTIONS_CHANGED
from attnconv.report.page import render
from attnconv.study.comparison import Comparison, Reading, Row
from attnconv.study.plan import PUBLISHED, Study
from attnconv.study.statistics import ALPHA, MOST, Estimate, seeds_to_reach

NONE = "-"
SMALL_P = 0.001
FLOPS_UNITS = (
    (1e18, 1e18, "EFLOPs"),
    (1e15, 1e15, "PFLOPs"),
    (1e12, 1e12, "TFLOPs"),
    (0.0, 1e9, "GFLOPs"),
)  # from, size, name
READINGS = {
    "last": "last epoch",
    "best": "best epoch",
    "equal_time": "equal time",
    "equal_flops": "equal FLOPs",
    "without_diverged": "last epoch, without diverged runs",
}

Compared = Mapping[str, Comparison]  # by block


@dataclass(frozen=True)
class Table:
    """The first column names the rows; ``marked`` are the numbers of those that stand out, from 0."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """The comparison of an arm in words: the verdict, and the numbers behind it."""

    verdict: str  # better, worse, or none
    head: str
    text: str


def arms_of(compared: Compared) -> Iterator[tuple[Comparison, Row]]:
    """Yield every arm of the study with its comparison."""
    return ((comparison, row) for comparison in compared.values() for row in comparison.rows)


def findings(compared: Compared) -> list[Finding]:
    """Return a finding for each arm but the baselines; `no_verdict` stands above them if it is not empty."""
    enough, said = _enough(compared), bool(no_verdict(compared))
    return [_finding(one, row, enough, said=said) for one, row in arms_of(compared) if row.arm != one.baseline]


def no_verdict(compared: Compared) -> str:
    """Return a sentence if several arms could be tested and all of them have too few seeds; "" otherwise."""
    pairs = [row.last.difference.n for _, row in arms_of(compared) if row.test.permutation and row.last.difference]
    enough = _enough(compared)
    if len(pairs) < 2 or max(pairs) >= enough:
        return ""
    seeds = f"{min(pairs)}" if min(pairs) == max(pairs) else f"{min(pairs)} to {max(pairs)}"
    return f"No verdict with {seeds} seeds: {len(pairs)} comparisons need at least {enough}. Differences so far:"


def _enough(compared: Compared) -> int:
    return seeds_to_reach(max(count_tests(compared), 1))


def count_tests(compared: Compared) -> int:
    """Return how many comparisons of the study could be tested."""
    return sum(row.test.permutation is not None for _, row in arms_of(compared))


def _finding(comparison: Comparison, row: Row, enough: int, *, said: bool) -> Finding:
    """Return the finding of an arm; ``said``: the arms' lack of seeds is told above them."""
    arm, baseline, p = row.arm, comparison.baseline.rpartition("/")[2], row.test.holm_p
    more = f" Its attention is {row.off.verdict}." if row.off and row.off.inactive else ""
    difference = row.last.difference
    if difference is None or difference.mean is None:
        return Finding("none", f"{arm}: not compared with {baseline}, {row.test.why_not}.", more.strip())
    ends = f", 95 % interval {interval_text(difference, kind=False)}" if difference.interval.low is not None else ""
    numbers = f"{difference.mean:+.2f} points{ends}"
    if p is None:
        return Finding("none", f"{arm}: not tested, {row.test.why_not}.", f"{numbers}.{more}")
    if said:
        return Finding("none", f"{arm}:", f"{numbers}.{more}")
    if difference.n < enough:
        head = f"{arm}: no verdict with {difference.n} seeds."
        return Finding("none", head, f"{numbers} so far; at least {enough} seeds are needed.{more}")
    if p > ALPHA:
        return Finding("none", f"{arm}: no difference from {baseline} shown.", f"{numbers}, p = {p_text(p)}.{more}")
    verdict = "better" if difference.mean > 0 else "worse"
    p_said = f"p = {p_text(p)}" if p >= SMALL_P else f"p < {SMALL_P}"
    return Finding(verdict, f"{arm} is {verdict} than {baseline}.", f"{numbers}, {p_said}.{more}")


def verdict_table(study: Study, compared: Compared) -> Table:
    """Return the table of the last epoch: the verdict first, then the runs and the published value, if any."""
    names = {comparison.score for comparison in compared.values()}
    rows, marked = [], []
    for comparison, row in arms_of(compared):
        scored, planned = row.counts["done"] + row.counts["diverged"], sum(row.counts.values())
        if row.counts["diverged"]:
            marked.append(len(rows))
        runs = str(scored) if scored == planned else f"{scored} of {planned}"
        runs += f", {row.counts['diverged']} diverged" if row.counts["diverged"] else ""
        score = f" {comparison.score}" if len(names) > 1 and comparison.score != "top-1" else ""
        cells = ("baseline" if row.arm == comparison.baseline else NONE, NONE)
        if (difference := row.last.difference) and difference.mean is not None:
            cells = (f"{difference.mean:+.2f}", interval_text(difference))
        tested = (NONE, NONE)
        if row.test.permutation:
            tested = (p_text(row.test.holm_p), text(row.test.runs_to_see, "{:,}", f">{MOST:,}"))
        published = (text(study.published.get(row.arm, {}).get("value")),) if study.published else ()
        rows.append((row.arm, mean_text(row.last.estimate) + score, *cells, *tested, runs, *published))
    score = names.pop() if len(names) == 1 else "score"
    header = ("arm", f"{score}, mean ± sd", "difference", "95 % interval", "p (Holm)", "runs needed", "runs")
    header += ("published",) if study.published else ()
    return Table("Scores after the last epoch", header, tuple(rows), tuple(marked))


def other_tables(compared: Compared) -> list[Table]:
    """Return the table of costs, and those of the other readings and of attention switched off if there are any."""
    return [_costs(compared), *_readings(compared), *attention_table(compared)]


def has_epochs(compared: Compared) -> bool:
    """True if an arm was trained for more than one epoch; the readings within a run are the same for all if not."""
    return any(row.epochs is not None and row.epochs > 1 for _, row in arms_of(compared))


def attention_table(compared: Compared) -> list[Table]:
    """Return the table of the best networks with attention switched off; no table if no run has measured that."""
    rows = []
    for _, row in arms_of(compared):
        if (off := row.off) is not None and off.on.mean is not None and off.off.mean is not None:
            scores = (mean_text(off.on), mean_text(off.off), f"{off.off.mean - off.on.mean:+.2f}")
            rows.append((row.arm, *scores, f"{off.predictions_changed:.2g} %", off.verdict))
    if not rows:
        return []
    header = ("arm", "attention on", "attention off", "difference", "predictions changed, at most", "attention")
    return [Table("The same networks with their attention switched off", header, tuple(rows))]


def _readings(compared: Compared) -> list[Table]:
    """Return the table of means and differences at the best epoch, at equal time and so on; no table without any."""
    possible = [key for key in READINGS if key != "last"] if has_epochs(compared) else ["without_diverged"]
    keys = [key for key in possible if any(getattr(row, key) for _, row in arms_of(compared))]
    if not keys:
        return []
    rows = [(row.arm, *(_reading_text(getattr(row, key)) for key in keys)) for _, row in arms_of(compared)]
    header = ("arm", *(READINGS[key] for key in keys))
    return [Table("Other readings of the same runs: mean and difference, not tested", header, tuple(rows))]


def _reading_text(reading: Reading | None) -> str:
    if reading is None or reading.estimate is None:
        return NONE if reading is None else reading.why_not
    difference = reading.difference and reading.difference.mean
    after = "" if reading.epochs is None else f" at epoch {reading.epochs}"
    return text(reading.estimate.mean, "{:.2f}") + text(difference, " ({:+.2f})", "") + after


def _costs(compared: Compared) -> Table:
    header = ("arm", "parameters", "GMACs an image", "epochs", "ms a step", "s an epoch", "training s")
    rows = []
    for _, row in arms_of(compared):
        gmacs = None if row.flops is None else row.flops / 2e9
        cells = (
            row.arm,
            text(row.params, "{:,}"),
            text(gmacs, "{:,.0f}" if gmacs is not None and gmacs >= 100 else "{:.3g}"),
            text(row.epochs),
        )
        seconds = row.seconds
        a_step, an_epoch = (None if seconds is None or not n else seconds / n for n in (row.steps, row.epochs))
        times = (a_step and 1000 * a_step, an_epoch, seconds)
        rows.append((*cells, *(text(value, "{:,.1f}") for value in times)))
    return Table("Costs of a run", header, tuple(rows))


def flops_text(flops: float) -> str:
    """Return FLOPs in the largest unit that they reach."""
    _, size, unit = next(unit for unit in FLOPS_UNITS if flops >= unit[0])
    return f"{flops / size:.3g} {unit}"


def text(value: float | None, form: str = "{}", none: str = NONE) -> str:
    """Return a number as a cell of a table."""
    return none if value is None else form.format(value)


def p_text(p: float | None) -> str:
    """Return a p value as tables show it."""
    return text(p, f"<{SMALL_P}" if p is not None and p < SMALL_P else "{:.3f}")


def mean_text(found: Estimate | None) -> str:
    """Return a mean and the standard deviation as tables show them."""
    return NONE if found is None else text(found.mean, "{:.2f}") + text(found.sd, " ± {:.2f}", "")


def interval_text(found: Estimate, *, kind: bool = True) -> str:
    """Return the ends of a difference's interval; with its ``kind``, "(t)" stands behind those of Student's."""
    ends = found.interval
    return NONE if ends.low is None else f"{ends.low:+.2f} to {ends.high:+.2f}" + " (t)" * (kind and ends.kind == "t")


def notes(study: Study, compared: Compared) -> list[str]:
    """Return the notes on the whole report, a sentence or two each."""
    partly_paired = [
        (row.arm, difference.n)
        for one, row in arms_of(compared)
        if (difference := row.last.difference)
        and difference.n < max(known.n for known in (row.last.estimate, one.rows[0].last.estimate) if known)
    ]
    found = render(
        "notes.txt",
        compared=list(compared.values()),
        has_epochs=has_epochs(compared),
        flops_text=flops_text,
        rows=[row for _, row in arms_of(compared)],
        records=[record for comparison in compared.values() for record in comparison.records],
        scores=sorted({comparison.score for comparison in compared.values()}),
        tests=count_tests(compared),
        partly_paired=partly_paired,
        logits_moved=LOGITS_MOVED,
        predictions_changed=PREDICTIONS_CHANGED,
        published=[(arm, entry, PUBLISHED[entry.get("score", "top1")]) for arm, entry in study.published.items()],
    )
    return [" ".join(part.split()) for part in found.split("\n\n") if part.strip()]


def csv_files(compared: Compared) -> dict[str, str]:
    """Return the CSV files by name."""
    records = [record for comparison in compared.values() for record in comparison.records]
    runs = [
        {
            **{key: value for key, value in record.items() if key not in ("history", "attention_off")},
            **{f"attention_off_{key}": value for key, value in (record.get("attention_off") or {}).items()},
        }
        for record in records
    ]
    epochs = [
        {"arm": record["arm"], "seed": record["seed"], **row}
        for record in records
        for row in record.get("history") or ()
    ]
    tables = {"summary": summary(compared), "details": details(compared), "runs": runs, "epochs": epochs}
    return {f"{name}.csv": files.csv_text(rows) for name, rows in tables.items()}


def summary(compared: Compared) -> list[dict[str, Any]]:
    """Return ten values for each arm, of the last epoch; None where a number does not exist."""
    found = []
    for comparison, row in arms_of(compared):
        mean, difference = row.last.estimate, row.last.difference
        values = {"arm": row.arm, "score": comparison.score, "runs": mean and mean.n}
        values |= {"mean": mean and mean.mean, "sd": mean and mean.sd, "difference": difference and difference.mean}
        values["difference_low"] = difference and difference.interval.low
        values["difference_high"] = difference and difference.interval.high
        found.append({**values, "p_holm": row.test.holm_p, "runs_needed": row.test.runs_to_see})
    return found


def details(compared: Compared) -> Iterator[dict[str, Any]]:
    """Yield all numbers of each arm and reading."""
    for comparison, row in arms_of(compared):
        for key in READINGS:
            if (reading := getattr(row, key)) is None:
                continue
            shared = {"arm": row.arm, "baseline": comparison.baseline, "score": comparison.score, "reading": key}
            costs = {"params": row.params, "flops": row.flops, "train_epochs": row.epochs, "train_seconds": row.seconds}
            budget = {"equal_time": comparison.time, "equal_flops": comparison.flops}.get(key)
            yield {
                **shared,
                **flat(reading),
                **(flat(row.test) if key == "last" else {}),
                **(flat(row.off, "attention_") if key == "best" and row.off else {}),
                **row.counts,
                **costs,
                **({"budget_arm": budget[0], "budget": budget[1]} if budget else {}),
            }


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the fields of nested dataclasses under joined names, such as difference_interval_low."""
    found = {}
    for field in dataclasses.fields(value):
        one = getattr(value, field.name)
        name = f"{prefix}{field.name}"
        found |= flat(one, f"{name}_") if dataclasses.is_dataclass(one) else {} if one is None else {name: one}
    return found
