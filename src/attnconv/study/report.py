"""The report of a study's folder: a page, its Markdown twin with drawings beside it, and CSV files of every number."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnconv import __version__
from attnconv.report import study_page
from attnconv.study.compared import comparisons
from attnconv.study.comparison import Comparison
from attnconv.study.comparison_table import csv_text, epoch_rows, run_rows, summary_rows
from attnconv.study.folder import StudyFolder
from attnconv.study.plan import Study
from attnconv.study.records import counts, read_records, records
from attnconv.study.report_text import blocks_of
from attnconv.train.atomic import replacing


@dataclass(frozen=True)
class Report:
    """``files``: those written; ``runs``: how many are of each state; ``compared``: by block."""

    study: Study
    files: tuple[Path, ...]
    runs: Mapping[str, int]
    compared: Mapping[str, Comparison]

    def summary(self) -> list[dict[str, Any]]:
        """The rows of summary.csv."""
        return _rows(self.compared, summary_rows)


def write_report(path: Path) -> Report:
    """Write report.html, report.md with its .svg files, summary.csv, runs.csv and epochs.csv into a study's folder.

    The records are made anew from the folders of the runs; where there are none, records.jsonl is read.

    Raises:
        InputError: no study there, its plan or its records cannot be read, or nothing can be written.
    """
    folder = StudyFolder(path)
    study = folder.study()
    found = _archived(folder, study) if _is_archive(folder) else records(folder, study)
    compared = comparisons(study, found)
    blocks = blocks_of(study, path, found, compared)
    footer = f"Written by attnconv {__version__} from the records of {len(found)} runs."
    text, drawings = study_page.markdown(f"Study {study.name}", blocks, footer=footer)
    files = {
        "report.html": study_page.html(f"Study {study.name}", blocks, footer=footer),
        "report.md": text,
        **drawings,
        "summary.csv": csv_text(_rows(compared, summary_rows)),
        "runs.csv": csv_text(_rows(compared, run_rows)),
        "epochs.csv": csv_text(_rows(compared, epoch_rows)),
    }
    _write(path, files)
    return Report(study, tuple(path / name for name in files), counts(found), compared)


def _is_archive(folder: StudyFolder) -> bool:
    """Whether the plan and the records alone were kept."""
    return folder.records.exists() and not (folder.path / "runs").exists()


def _archived(folder: StudyFolder, study: Study) -> list[dict[str, Any]]:
    """The records in records.jsonl; runs of the plan that have none there are missing."""
    found = read_records(folder.records)
    known = {(record.get("arm"), record.get("seed")) for record in found}
    missing = [planned for planned in study.runs() if (planned.arm, planned.seed) not in known]
    return found + [{"arm": run.arm, "seed": run.seed, "state": "missing"} for run in missing]


def _rows(compared: Mapping[str, Comparison], rows_of: Any) -> list[dict[str, Any]]:
    """The rows of all blocks, each with its block ("" without), and all with the same keys."""
    found = [{"block": block, **row} for block, comparison in compared.items() for row in rows_of(comparison)]
    names = dict.fromkeys(key for row in found for key in row)
    return [{name: row.get(name) for name in names} for row in found]


def _write(path: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        with replacing(path / name) as file:
            file.write(text.encode(errors="replace"))
