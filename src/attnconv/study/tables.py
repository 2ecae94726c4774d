"""A comparison as tables of text, as sentences, and as rows for CSV files.

Three tables: equal epochs, with the test; the other readings of the same runs; what each arm costs; and a fourth where
runs have measured what their attention does. The sentences are those of two templates, notes.txt and findings.txt. The
CSV rows hold every number of the tables unrounded, every run, and every epoch.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attnconv.inactive import LOGITS_MOVED, PREDICTIONS_CHANGED
from attnconv.report.page import render
from attnconv.study.comparison import Comparison, Reading, Row, holm_over_all
from attnconv.study.folder import STATES
from attnconv.study.plan import Study
from attnconv.study.statistics import ALPHA, Difference, Estimate, seeds_to_reach

NONE = "-"
READINGS = (
    ("last", "last epoch"),
    ("best", "best epoch"),
    ("equal_time", "equal time"),
    ("equal_flops", "equal FLOPs"),
    ("without_diverged", "last epoch, without diverged runs"),
)


@dataclass(frozen=True)
class Table:
    """The first column names the rows; ``marked`` are the numbers of those that stand out, from 0."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: tuple[int, ...] = ()


def tables(comparison: Comparison) -> list[Table]:
    """Return the tables, that of attention only if it was measured."""
    found = [_results(comparison), _readings(comparison), _costs(comparison)]
    diverged = {row.arm for row in comparison.rows if row.counts["diverged"]}
    return [
        replace(table, marked=tuple(i for i, row in enumerate(table.rows) if row[0] in diverged))
        for table in (*found, *attention_table(comparison))
    ]


def attention_table(comparison: Comparison) -> list[Table]:
    """Return the table of the best networks with attention switched off; no table if no run has measured that."""
    if not any(row.off for row in comparison.rows):
        return []
    score = comparison.score
    header = ("arm", "runs", f"best epoch's {score}, mean ± sd", f"{score} with attention off, mean ± sd", "difference")
    rows = []
    for row in comparison.rows:
        if (off := row.off) is None or off.on.mean is None or off.off.mean is None:
            rows.append((row.arm, *[NONE] * 7))
            continue
        scores = (mean_text(off.on), mean_text(off.off), f"{off.off.mean - off.on.mean:+.2f}")
        moved = (f"{off.logits_moved:.1g}", f"{off.predictions_changed:.2g}")
        rows.append((row.arm, str(off.off.n), *scores, *moved, off.verdict))
    more = ("logits moved, at most", "predictions changed, at most %", "attention")
    return [Table("The same networks with their attention switched off", (*header, *more), tuple(rows))]


def _results(comparison: Comparison) -> Table:
    header = ("arm", "runs", "diverged", f"{comparison.score}, mean ± sd", "95 % interval", "difference")
    rows = []
    for row in comparison.rows:
        scored, planned = row.counts["done"] + row.counts["diverged"], sum(row.counts.values())
        test, pairs = row.test, NONE
        if difference := row.last.difference:
            pairs = str(difference.n[0]) if difference.paired else "unpaired, {} and {}".format(*difference.n)
        tested = (test.why_not, NONE, NONE)
        if test.permutation:
            tested = (p_text(test.permutation.p), p_text(test.holm_p), text(test.runs_to_see, "{:,}", "none would do"))
        runs = str(scored) if scored == planned else f"{scored} of {planned}"
        rows.append((row.arm, runs, str(row.counts["diverged"]), *_reading(row.last), pairs, *tested))
    more = ("95 % interval", "pairs", "p", "p (Holm)", "runs needed")
    return Table("Equal epochs: the score after the last epoch", (*header, *more), tuple(rows))


def _readings(comparison: Comparison) -> Table:
    header = ("arm", "reading", "epochs", "runs", f"{comparison.score}, mean ± sd", "95 % interval")
    rows = []
    for row in comparison.rows:
        for key, name in READINGS[1:]:
            reading: Reading | None = getattr(row, key)
            if reading is None:
                continue
            epochs = row.epochs if reading.epochs is None else reading.epochs
            runs = reading.estimate and reading.estimate.n
            rows.append((row.arm, name, text(epochs), text(runs), *_reading(reading)))
    return Table("The same runs, read otherwise: not tested", (*header, "difference", "95 % interval"), tuple(rows))


def _costs(comparison: Comparison) -> Table:
    header = ("arm", "parameters", "GMACs an image", "epochs", "ms a step", "training s an epoch", "training s")
    rows = []
    for row in comparison.rows:
        an_epoch = row.seconds / row.epochs if row.seconds is not None and row.epochs else None
        a_step = 1000 * row.seconds / row.steps if row.seconds is not None and row.steps else None
        gmacs = None if row.flops is None else row.flops / 2e9
        cells = (row.arm, text(row.params, "{:,}"), text(gmacs, "{:.3g}"), text(row.epochs), text(a_step, "{:,.1f}"))
        rows.append((*cells, text(an_epoch, "{:,.1f}"), text(row.seconds, "{:,.1f}")))
    return Table("What a run costs", header, tuple(rows))


def text(value: float | None, form: str = "{}", none: str = NONE) -> str:
    """Return a number as a cell of a table."""
    return none if value is None else form.format(value)


def p_text(p: float | None) -> str:
    """Return a p value as tables show it."""
    return text(p, "<0.0001" if p is not None and p < 1e-4 else "{:.4f}")


def mean_text(found: Estimate | None) -> str:
    """Return a mean and the standard deviation as tables show them."""
    return NONE if found is None else text(found.mean, "{:.2f}") + text(found.sd, " ± {:.2f}", "")


def _reading(reading: Reading) -> tuple[str, ...]:
    """Return the cells of mean and difference, each with its interval."""
    mean, difference = reading.estimate, reading.difference
    cells = (reading.why_not or NONE, NONE) if mean is None else (mean_text(mean), _interval(mean, ""))
    return (*cells, *((f"{difference.value:+.2f}", _interval(difference, "+")) if difference else (NONE, NONE)))


def _interval(found: Estimate | Difference, sign: str) -> str:
    ends = found.interval
    return NONE if ends.low is None else f"{ends.low:{sign}.2f} to {ends.high:{sign}.2f}" + " (t)" * (ends.kind == "t")


def notes(comparison: Comparison) -> list[str]:
    """Return what has to be said below the tables, a sentence or two a note."""
    tested = [row for row in comparison.rows if row.test.permutation]
    by_smallest: dict[float, list[str]] = {}
    for row in tested:
        if row.test.permutation and row.test.permutation.smallest_p * len(tested) > ALPHA:
            by_smallest.setdefault(row.test.permutation.smallest_p, []).append(row.arm)
    partly_paired = []
    for row in tested:
        difference = row.last.difference
        runs = max(reading.estimate.n for reading in (row.last, comparison.rows[0].last) if reading.estimate)
        if difference and difference.paired and difference.n[0] < runs:
            partly_paired.append((row.arm, difference.n[0]))
    return _paragraphs(
        "notes.txt",
        c=comparison,
        tests=len(tested),
        out_of_reach=sorted(by_smallest.items(), reverse=True),
        enough=seeds_to_reach(max(len(tested), 1)),
        alpha=ALPHA,
        partly_paired=partly_paired,
        logits_moved=LOGITS_MOVED,
        predictions_changed=PREDICTIONS_CHANGED,
    )


def findings(comparison: Comparison, over_all: Mapping[str, float]) -> list[str]:
    """Return the comparisons in words; ``over_all``: p after Holm over several sections, by arm."""
    tests = sum(row.test.permutation is not None for row in comparison.rows)
    return _paragraphs("findings.txt", c=comparison, tests=tests, alpha=ALPHA, over_all=over_all)


def _paragraphs(template: str, **values: Any) -> list[str]:
    return [" ".join(part.split()) for part in render(template, **values).split("\n\n") if part.strip()]


def csv_files(study: Study, compared: Mapping[str, Comparison]) -> dict[str, str]:
    """Return every number of all blocks, by the names of the files."""
    return {
        "summary.csv": csv_text(summary(study, compared)),
        "runs.csv": csv_text(_of_blocks(compared, run_rows)),
        "epochs.csv": csv_text(_of_blocks(compared, epoch_rows)),
    }


def summary(study: Study, compared: Mapping[str, Comparison]) -> list[dict[str, Any]]:
    """Return the rows of all blocks, with what takes the whole study to know."""
    adjusted = holm_over_all(compared)
    found = _of_blocks(compared, summary_rows)
    for row in found:
        block, arm = row["block"], row["arm"]
        published = study.published.get(f"{block}/{arm}" if block else arm, {})
        row["p_holm_all"] = adjusted.get((block, arm)) if row["reading"] == "last" else None
        row["published"] = published.get("value")
        row["published_score"] = published.get("score", "top1") if published else None
        row["published_runs"] = published.get("runs")
    return found


def _of_blocks(compared: Mapping[str, Comparison], rows_of: Any) -> list[dict[str, Any]]:
    """Return the rows of all blocks, each with its block, "" without."""
    return [{"block": block, **row} for block, comparison in compared.items() for row in rows_of(comparison)]


def summary_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a flat mapping for each arm and reading; None where a number does not exist."""
    return [
        _summary(comparison, row, key, reading)
        for row in comparison.rows
        for key, _ in READINGS
        if (reading := getattr(row, key)) is not None
    ]


def _summary(comparison: Comparison, row: Row, key: str, reading: Reading) -> dict[str, Any]:
    found, difference = reading.estimate, reading.difference
    test = row.test if key == "last" else None
    permutation = test.permutation if test else None
    off = row.off if key == "best" else None
    budget = {"equal_time": comparison.time, "equal_flops": comparison.flops}.get(key)
    return {
        "arm": row.arm,
        "baseline": comparison.baseline,
        "reading": key,
        "score": comparison.score,
        **{state: row.counts[state] for state in STATES},
        "epochs": row.epochs if reading.epochs is None else reading.epochs,
        "n": found and found.n,
        "mean": found and found.mean,
        "sd": found and found.sd,
        "low": found and found.interval.low,
        "high": found and found.interval.high,
        "interval": found and (found.interval.kind or found.interval.why_not),
        "difference": difference and difference.value,
        "difference_low": difference and difference.interval.low,
        "difference_high": difference and difference.interval.high,
        "difference_interval": difference and (difference.interval.kind or difference.interval.why_not),
        "paired": difference and difference.paired,
        "pairs": difference.n[0] if difference and difference.paired else None,
        "sd_difference": difference.sds[0] if difference and difference.paired and difference.sds else None,
        "n_arm": difference.n[0] if difference and not difference.paired else None,
        "n_baseline": difference.n[1] if difference and not difference.paired else None,
        "p": permutation and permutation.p,
        "p_holm": test and test.holm_p,
        "smallest_p": permutation and permutation.smallest_p,
        "p_exact": permutation and permutation.exact,
        "runs_needed": test and test.runs_to_see,
        "why_not": reading.why_not or (test.why_not if test else ""),
        "params": row.params,
        "flops": row.flops,
        "train_seconds": row.seconds,
        "budget": budget[1] if budget else None,  # seconds, or FLOPs, of training
        "budget_arm": budget[0] if budget else None,
        "attention_on_mean": off and off.on.mean,  # of the runs that were measured
        "attention_off_mean": off and off.off.mean,
        "attention_off_sd": off and off.off.sd,
        "attention_off_n": off and off.off.n,
        "logits_moved": off and off.logits_moved,  # the largest of the runs
        "predictions_changed": off and off.predictions_changed,
        "inactive_runs": off and off.inactive,
    }


def run_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return each run's record without its epochs; attention_off is a column for each of its numbers."""
    return [
        {
            **{key: value for key, value in record.items() if key not in ("history", "attention_off")},
            **{f"attention_off_{key}": value for key, value in (record.get("attention_off") or {}).items()},
        }
        for record in comparison.records
    ]


def epoch_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return each epoch of each run."""
    return [
        {"arm": record["arm"], "seed": record["seed"], **row}
        for record in comparison.records
        for row in record.get("history") or ()
    ]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a header; None, and what a row has not, is an empty cell."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
