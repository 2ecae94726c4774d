"""What a study's report says, as parts: text, tables and drawings: first the whole, then block by block, then the
runs one by one, and what was not run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from attnconv.report.study_page import Heading, Items, Part, TableData, Typed
from attnconv.study.attention_drawings import attention_drawings
from attnconv.study.compared import holm_over_all
from attnconv.study.comparison import Comparison, Row
from attnconv.study.comparison_notes import notes
from attnconv.study.comparison_table import NONE, Table, mean_text, p_text, tables
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import Study
from attnconv.study.power import ALPHA
from attnconv.study.report_command import command
from attnconv.study.report_drawings import drawings
from attnconv.study.report_runs import not_run, run_table
from attnconv.study.scores import PUBLISHED

Record = Mapping[str, Any]


def parts_of(study: Study, path: Path, records: Sequence[Record], compared: Mapping[str, Comparison]) -> list[Part]:
    """The report's parts; ``records`` have the full names of arms, ``compared`` the names within a block."""
    several = len(compared) > 1
    found: list[Part] = [study.text, *_scale(study), Typed(command(study, path)), *_state(records)]
    if several:
        said = (
            "p (Holm, all) is adjusted for all comparisons of the study; each section below is a table of its own, "
            "whose p (Holm) is adjusted for that section's."
        )
        found += [Heading("Overview"), _overview(study, compared), Items([said])]
    for block in compared:
        found += _section(study, block, compared, attention_drawings(study, StudyFolder(path), block, records))
    found += [Heading("What was not run"), *not_run(study, records)]
    found += [Heading("Runs"), run_table(study, records)]
    plan = yaml.safe_dump(study.to_dict(), sort_keys=False, allow_unicode=True)
    return [*found, Heading("Plan"), Typed(plan.rstrip(), title="study.yaml")]


def _scale(study: Study) -> list[Part]:
    if study.scale == "published" or not study.published:
        return []
    text = (
        f"This is not the published size (its scale is {study.scale!r}): data, images, epochs or networks differ, so "
        "published numbers stand beside ours for orientation and are no target."
    )
    return [text]


def _state(records: Sequence[Record]) -> list[Part]:
    done = sum(record["state"] == "done" for record in records)
    diverged = sum(record["state"] == "diverged" for record in records)
    text = f"{done} of {len(records)} runs are done" + (f", {diverged} diverged" if diverged else "") + "."
    if not done:
        text += " There is nothing to compare yet."
    return [text]


def _section(study: Study, block: str, compared: Mapping[str, Comparison], maps: list[Part]) -> list[Part]:
    comparison = compared[block]
    full = {row.arm: f"{block}/{row.arm}" if block else row.arm for row in comparison.rows}
    published = {arm: study.published[name] for arm, name in full.items() if name in study.published}
    found: list[Part] = [Heading(block or "Results")]
    over_all = holm_over_all(compared) if len(compared) > 1 else {}
    findings = [_finding(comparison, row, over_all.get((block, row.arm))) for row in comparison.rows[1:]]
    if said := [text for text in findings if text]:
        found.append(Items(said))
    results, *others = tables(comparison, published={arm: _published(entry) for arm, entry in published.items()})
    found += _titled(results, comparison)
    if published:
        found += [Heading("Published numbers beside ours", 3), _beside(comparison, published)]
    found += [*drawings(comparison, block), *maps]
    for table in others:
        found += _titled(table, comparison)
    return [*found, Heading("Notes", 3), Items(notes(comparison))]


def _titled(table: Table, comparison: Comparison) -> list[Part]:
    diverged = {row.arm for row in comparison.rows if row.counts["diverged"]}
    marked = [i for i, row in enumerate(table.rows) if row[0] in diverged]
    return [Heading(table.title, 3), TableData(table.header, table.rows, marked)]


def _finding(comparison: Comparison, row: Row, over_all: float | None) -> str:
    """A comparison in words; "" where there is nothing to say yet. ``over_all``: p after Holm over several sections."""
    difference, test = row.last.difference, row.test
    if difference is None:
        return f"{row.arm}: not compared, {test.why_not}." if test.why_not else ""
    text = f"{row.arm}: {difference.value:+.2f} points against {comparison.baseline}"
    interval = difference.interval
    if interval.low is not None and interval.high is not None:
        text += f", 95 % interval {interval.low:+.2f} to {interval.high:+.2f}"
    if test.holm_p is None:
        return f"{text}; not tested, {test.why_not}."
    study_wide = "" if over_all is None else f"; over all comparisons of the study p is {over_all:.2g}"
    return f"{text}; p after Holm {test.holm_p:.2g}: {_verdict(comparison, row)}{study_wide}."


def _verdict(comparison: Comparison, row: Row) -> str:
    """What the test says, where its runs are enough to say anything."""
    test, difference = row.test, row.last.difference
    assert test.permutation is not None
    assert test.holm_p is not None
    assert difference is not None
    tests = sum(other.test.permutation is not None for other in comparison.rows)
    if test.permutation.smallest_p * tests > ALPHA:
        return "so few runs could show no difference at 5 %"
    if test.holm_p > ALPHA:
        return "no difference shown at 5 %"
    return f"{'better' if difference.value > 0 else 'worse'} at 5 %"


def _published(entry: Mapping[str, Any]) -> str:
    runs = entry.get("runs")
    about = [PUBLISHED[entry.get("score", "top1")], *([f"{runs} run{'s' if runs != 1 else ''}"] if runs else [])]
    return f"{entry['value']:g} ({', '.join(about)})"


def _beside(comparison: Comparison, published: Mapping[str, Mapping[str, Any]]) -> TableData:
    score = comparison.score
    header = ("arm", "published", f"our {score}, last epoch", f"our {score}, best epoch", "our runs", "source")
    rows = []
    for row in comparison.rows:
        if (entry := published.get(row.arm)) is not None:
            ours = [mean_text(reading.estimate) for reading in (row.last, row.best)]
            runs = str(row.counts["done"] + row.counts["diverged"])
            source = ". ".join(text.rstrip(".") for text in (entry["source"], entry.get("note")) if text)
            rows.append((row.arm, _published(entry), *ours, runs, source))
    return TableData(header, rows)


def _overview(study: Study, compared: Mapping[str, Comparison]) -> TableData:
    header = ("section", "arm", "runs", "mean ± sd", "difference", "95 % interval", "p (Holm, all)", "published")
    rows, marked = [], []
    adjusted = holm_over_all(compared)
    for block, comparison in compared.items():
        (results, *_) = tables(comparison)
        for row, cells in zip(comparison.rows, results.rows, strict=True):
            entry = study.published.get(f"{block}/{row.arm}")
            chosen = (*cells[:2], cells[3], cells[5], cells[6], p_text(adjusted.get((block, row.arm))))
            if row.counts["diverged"]:
                marked.append(len(rows))
            rows.append((block, *chosen, _published(entry) if entry else NONE))
    return TableData(header, rows, marked)
