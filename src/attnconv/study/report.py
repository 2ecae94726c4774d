"""The report of a study's folder: a page, its Markdown twin with drawings beside it, and CSV files of every number.

Page and twin are the templates study.html and study.md, which are given the same values: first the whole, then block by
block, then the runs one by one, and what was not run.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnconv import __version__, files
from attnconv.report.page import render, short_commit
from attnconv.study.comparison import Comparison, comparisons, holm_over_all
from attnconv.study.drawings import attention_drawings, drawings
from attnconv.study.folder import Record, StudyFolder, counts, records
from attnconv.study.plan import PUBLISHED, SCORES, Study
from attnconv.study.tables import NONE, Table, csv_files, findings, mean_text, notes, p_text, summary, tables, text
from attnconv.train.config import yaml_text

PROVENANCE = ("version", "torch", "device", "threads", "machine")  # of a record
UNDONE = ("failed", "running", "missing")


@dataclass(frozen=True)
class Report:
    """``files``: those written; ``runs``: how many are of each state; ``compared``: by block."""

    study: Study
    files: tuple[Path, ...]
    runs: Mapping[str, int]
    compared: Mapping[str, Comparison]

    def summary(self) -> list[dict[str, Any]]:
        """Return the rows of summary.csv."""
        return summary(self.study, self.compared)


def write_report(path: Path) -> Report:
    """Write report.html, report.md with its .svg files, summary.csv, runs.csv and epochs.csv into a study's folder.

    The records are made anew from the folders of the runs; where there are none, records.jsonl is read.

    Raises:
        InputError: no study there, its plan or its records cannot be read, or nothing can be written.
    """
    folder = StudyFolder(path)
    study = folder.study()
    folder.require_as_planned(study)
    found = records(folder, study)
    compared = comparisons(study, found)
    over_all = holm_over_all(compared) if len(compared) > 1 else {}
    sections = [_section(study, folder, block, comparison, found, over_all) for block, comparison in compared.items()]
    values = {
        "title": f"Study {study.name}",
        "study": study,
        "command": f"attnconv study run {shlex.quote(str(folder.plan))} --out studies/again",
        "runs": counts(found),
        "total": len(found),
        "overview": _overview(compared, over_all) if len(compared) > 1 else None,
        "sections": sections,
        "undone": _undone(study, found),
        "run_table": _run_table(study, found),
        "plan": yaml_text(study.to_dict(), sort_keys=False, allow_unicode=True).rstrip(),
        "footer": f"Written by attnconv {__version__} from the records of {len(found)} runs.",
    }
    pictures = [drawing for section in sections for row in section["drawings"] for drawing in row]
    texts = {
        "report.html": render("study.html", **values),
        "report.md": render("study.md", **values),
        **{f"{drawing.name}.svg": drawing.svg for drawing in pictures},
        **csv_files(study, compared),
    }
    for name, content in texts.items():
        files.write(path / name, content.encode(errors="replace"))
    return Report(study, tuple(path / name for name in texts), counts(found), compared)


def _section(
    study: Study,
    folder: StudyFolder,
    block: str,
    comparison: Comparison,
    found: Sequence[Record],
    over_all: Mapping[tuple[str, str], float],
) -> dict[str, Any]:
    """Return what the templates are given of a block."""
    full = {row.arm: f"{block}/{row.arm}" if block else row.arm for row in comparison.rows}
    published = {arm: study.published[name] for arm, name in full.items() if name in study.published}
    results, *others = tables(comparison)
    maps, undrawn = attention_drawings(study, folder, block, found)
    return {
        "block": block,
        "findings": findings(comparison, {arm: p for (its, arm), p in over_all.items() if its == block}),
        "results": results,
        "published": _beside(comparison, published) if published else None,
        "drawings": [row for row in (drawings(comparison, block), maps) if row],
        "undrawn": undrawn,
        "others": others,
        "notes": notes(comparison),
    }


def _published(entry: Mapping[str, Any]) -> str:
    runs = entry.get("runs")
    about = [PUBLISHED[entry.get("score", "top1")], *([f"{runs} run{'s' if runs != 1 else ''}"] if runs else [])]
    return f"{entry['value']:g} ({', '.join(about)})"


def _beside(comparison: Comparison, published: Mapping[str, Mapping[str, Any]]) -> Table:
    score = comparison.score
    header = ("arm", "published", f"our {score}, last epoch", f"our {score}, best epoch", "our runs", "source")
    rows = []
    for row in comparison.rows:
        if (entry := published.get(row.arm)) is not None:
            ours = [mean_text(reading.estimate) for reading in (row.last, row.best)]
            runs = str(row.counts["done"] + row.counts["diverged"])
            source = ". ".join(said.rstrip(".") for said in (entry["source"], entry.get("note")) if said)
            rows.append((row.arm, _published(entry), *ours, runs, source))
    return Table("Published numbers beside ours", header, tuple(rows))


def _overview(compared: Mapping[str, Comparison], over_all: Mapping[tuple[str, str], float]) -> Table:
    header = ("section", "arm", "runs", "mean ± sd", "difference", "95 % interval", "p (Holm, all)")
    rows, marked = [], []
    for block, comparison in compared.items():
        (results, *_) = tables(comparison)
        for row, cells in zip(comparison.rows, results.rows, strict=True):
            if row.counts["diverged"]:
                marked.append(len(rows))
            rows.append((block, *cells[:2], cells[3], *cells[5:7], p_text(over_all.get((block, row.arm)))))
    return Table("Overview", header, tuple(rows), tuple(marked))


def _run_table(study: Study, found: Sequence[Record]) -> Table:
    """Return a row a run, by arm and seed; those that diverged or failed stand out."""
    names = {SCORES[study.score_of(block)] for block in study.blocks()}
    name = names.pop() if len(names) == 1 else "score"
    header = ("arm", "seed", "state", f"{name}, last", f"{name}, best", "epochs", "training s", "commit", *PROVENANCE)
    rows, marked = [], []
    for record in _by_arm(study, found):
        history = record.get("history") or ()
        key = study.score_of(record["arm"].rpartition("/")[0])
        last = record.get(key) if record["state"] == "done" else history[-1][f"val_{key}"] if history else None
        best = max((one for row in history if (one := row[f"val_{key}"]) == one), default=None)
        if record["state"] in ("diverged", "failed"):
            marked.append(len(rows))
        rows.append(
            (
                *(record["arm"], str(record["seed"]), record["state"]),
                *(text(score, "{:.2f}") for score in (last, best)),
                str(len(history)),
                f"{sum(row['seconds'] for row in history):,.1f}" if history else NONE,
                short_commit(record.get("commit") or NONE),
                *(str(record.get(key) or NONE) for key in (*PROVENANCE, "reason")),
            )
        )
    return Table("Runs", (*header, "remark"), tuple(rows), tuple(marked))


def _undone(study: Study, found: Sequence[Record]) -> Table:
    """Return the runs that came to no end, by arm and reason."""
    undone: dict[tuple[str, str, str], list[int]] = {}
    for record in _by_arm(study, found):
        if record["state"] in UNDONE:
            key = (record["arm"], record["state"], record.get("reason") or NONE)
            undone.setdefault(key, []).append(record["seed"])
    rows = [(arm, state, ", ".join(map(str, seeds)), reason) for (arm, state, reason), seeds in undone.items()]
    return Table("What was not run", ("arm", "state", "seeds", "reason"), tuple(rows))


def _by_arm(study: Study, found: Sequence[Record]) -> list[Record]:
    order = {arm: i for i, arm in enumerate(study.arms)}
    return sorted(found, key=lambda record: order[record["arm"]])
