"""Studies: runs of several arms and seeds, run on this machine or on Ray, kept and compared in one folder.

A `Study` is the plan, `run_study` does the runs that are missing, and `write_report` compares the arms.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnconv.study.plan import Study
    from attnconv.study.plan_file import built_in, read_study
    from attnconv.study.ray import ray_cluster
    from attnconv.study.report import Report, write_report
    from attnconv.study.run import run_study

# Loaded when first asked for: a run of a study needs none of it.
_FILES = {
    "Study": "plan",
    "ray_cluster": "ray",
    "run_study": "run",
    **dict.fromkeys(("built_in", "read_study"), "plan_file"),
    **dict.fromkeys(("Report", "write_report"), "report"),
}

__all__ = ["Report", "Study", "built_in", "ray_cluster", "read_study", "run_study", "write_report"]


def __getattr__(name: str) -> Any:
    if name in _FILES:
        return getattr(import_module(f"attnconv.study.{_FILES[name]}"), name)
    raise AttributeError(f"module 'attnconv.study' has no attribute {name!r}")
