"""The report of a study's folder: a page, its Markdown twin with drawings beside it, LaTeX and CSV files.

Page and twin are the templates study.html and study.md, which are given the same values: the verdict first, then curves
and costs, then the runs, and at the end the notes.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnconv import __version__, files
from attnconv.report.page import render, short_commit
from attnconv.study.comparison import Comparison, comparisons
from attnconv.study.drawings import attention_drawings, drawings, forest
from attnconv.study.folder import Record, StudyFolder, counts, records
from attnconv.study.plan import Study
from attnconv.study.tables import (
    NONE,
    Table,
    csv_files,
    findings,
    no_verdict,
    notes,
    other_tables,
    summary,
    text,
    verdict_table,
)
from attnconv.train.config import yaml_text

PROVENANCE = ("commit", "version", "code", "torch", "device", "threads", "machine")  # of a record


@dataclass(frozen=True)
class Report:
    """``files``: those written; ``runs``: how many are of each state; ``compared``: by block."""

    study: Study
    files: tuple[Path, ...]
    runs: Mapping[str, int]
    compared: Mapping[str, Comparison]

    def summary(self) -> list[dict[str, Any]]:
        """Return the rows of summary.csv: ten values for each arm."""
        return summary(self.compared)


def write_report(path: Path | str) -> Report:
    """Write report.html, report.md with its .svg files, summary.tex and CSV files into a study's folder.

    The records are made anew from the folders of the runs; where there are none, records.jsonl is read.

    Raises:
        InputError: no study there, its plan or its records cannot be read, or nothing can be written.
    """
    folder = StudyFolder(Path(path))
    study = folder.study()
    folder.require_as_planned(study)
    found = records(folder, study)
    compared = comparisons(study, found)
    maps = {block: attention_drawings(study, folder, block, found) for block in compared}
    sections = [
        {"block": block, "drawings": [*drawings(one, block), *maps[block][0]], "undrawn": maps[block][1]}
        for block, one in compared.items()
    ]
    made = {name: list(dict.fromkeys(r[name] for r in found if r.get(name) is not None)) for name in PROVENANCE}
    values = {
        "title": f"Study {study.name}",
        "study": study,
        "runs": counts(found),
        "total": len(found),
        "no_verdict": no_verdict(compared),
        "findings": findings(compared),
        "forest": forest(study, compared),
        "verdict": verdict_table(study, compared),
        "sections": sections,
        "others": other_tables(compared),
        "run_table": _run_table(study, found, [name for name, kinds in made.items() if len(kinds) > 1]),
        "shared": {name: short_commit(str(kinds[0])) for name, kinds in made.items() if len(kinds) == 1},
        "notes": notes(study, compared),
        "command": shlex.join(
            ["attnconv", "study", "run", str(folder.plan), "--out", "studies/again", *_imports(made["code"])]
        ),
        "plan": yaml_text(study.to_dict(), sort_keys=False, allow_unicode=True).rstrip(),
        "footer": f"Written by attnconv {__version__} from the records of {len(found)} runs.",
    }
    pictures = [*values["forest"], *(drawing for section in sections for drawing in section["drawings"])]
    texts = {
        "report.html": render("study.html", **values),
        "report.md": render("study.md", **values),
        "summary.tex": render("study.tex", **values),
        **{f"{drawing.name}.svg": drawing.svg for drawing in pictures},
        **csv_files(compared),
    }
    for name, content in texts.items():
        files.write(folder.path / name, content.encode(errors="replace"))
    return Report(study, tuple(folder.path / name for name in texts), counts(found), compared)


def _imports(code: Sequence[str]) -> list[str]:
    """Return the flags that import the modules that a record's ``code`` names."""
    names = dict.fromkeys(part.partition(" ")[0] for one in code for part in re.split(r", | \+ ", one))
    return [word for name in names for word in ("--import", name)]


def _run_table(study: Study, found: Sequence[Record], varying: Sequence[str]) -> Table:
    """Return a row a run, by arm and seed, with the provenance that varies; runs that diverged or failed stand out."""
    reasons = any(record.get("reason") for record in found)
    header = ("arm", "seed", "state", "last epoch", "best epoch", "epochs", "training s", *varying)
    order = {arm: i for i, arm in enumerate(study.arms)}
    rows, marked = [], []
    for record in sorted(found, key=lambda record: order[record["arm"]]):
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
                *(short_commit(str(record.get(name) or NONE)) for name in (*varying, *(("reason",) * reasons))),
            )
        )
    return Table("Runs", header + ("remark",) * reasons, tuple(rows), tuple(marked))
