"""The report of a study's folder: a page, its Markdown twin with drawings beside it, and CSV files of every number."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnconv import __version__
from attnconv.files import replacing
from attnconv.report import study_page
from attnconv.study.compared import comparisons, holm_over_all
from attnconv.study.comparison import Comparison
from attnconv.study.comparison_table import csv_text, epoch_rows, run_rows, summary_rows
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import Study
from attnconv.study.records import counts, records
from attnconv.study.report_text import parts_of


@dataclass(frozen=True)
class Report:
    """``files``: those written; ``runs``: how many are of each state; ``compared``: by block."""

    study: Study
    files: tuple[Path, ...]
    runs: Mapping[str, int]
    compared: Mapping[str, Comparison]

    def summary(self) -> list[dict[str, Any]]:
        """The rows of summary.csv."""
        return _summary(self.study, self.compared)


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
    parts = parts_of(study, path, found, compared)
    footer = f"Written by attnconv {__version__} from the records of {len(found)} runs."
    text, drawings = study_page.markdown(f"Study {study.name}", parts, footer=footer)
    files = {
        "report.html": study_page.html(f"Study {study.name}", parts, footer=footer),
        "report.md": text,
        **drawings,
        "summary.csv": csv_text(_summary(study, compared)),
        "runs.csv": csv_text(_rows(compared, run_rows)),
        "epochs.csv": csv_text(_rows(compared, epoch_rows)),
    }
    _write(path, files)
    return Report(study, tuple(path / name for name in files), counts(found), compared)


def _summary(study: Study, compared: Mapping[str, Comparison]) -> list[dict[str, Any]]:
    """Those of the comparisons, with what takes the whole study to know."""
    adjusted = holm_over_all(compared)
    found = []
    for row in _rows(compared, summary_rows):
        block, arm = row["block"], row["arm"]
        published = study.published.get(f"{block}/{arm}" if block else arm, {})
        found.append(
            {
                **row,
                "p_holm_all": adjusted.get((block, arm)) if row["reading"] == "last" else None,
                "published": published.get("value"),
                "published_score": published.get("score", "top1") if published else None,
                "published_runs": published.get("runs"),
            }
        )
    return found


def _rows(compared: Mapping[str, Comparison], rows_of: Any) -> list[dict[str, Any]]:
    """The rows of all blocks, each with its block ("" without), and all with the same keys."""
    found = [{"block": block, **row} for block, comparison in compared.items() for row in rows_of(comparison)]
    names = dict.fromkeys(key for row in found for key in row)
    return [{name: row.get(name) for name in names} for row in found]


def _write(path: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        with replacing(path / name) as file:
            file.write(text.encode(errors="replace"))
