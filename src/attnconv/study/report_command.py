"""The command that makes a study again."""

import dataclasses
import shlex
from pathlib import Path
from typing import cast, get_args

from attnconv.study.catalog import BUILT_IN, Scale, built_in
from attnconv.study.plan import Study


def command(study: Study, path: Path) -> str:
    """By the name of a built-in study if the plan is that one, else by the plan in the folder; then the report's."""
    settings = [] if study.threads is None else ["--threads", str(study.threads)]
    if _is_built_in(study):
        scale = [] if study.scale == "published" else ["--scale", study.scale]
        run = [study.name, *scale, "--seeds", str(len(study.seeds)), *settings, "--out", str(path)]
    else:
        run, path = [str(path / "study.yaml"), "--out", "studies/again"], Path("studies/again")
    return f"attnconv study run {shlex.join(run)}\nattnconv study report {shlex.quote(str(path))}"


def _is_built_in(study: Study) -> bool:
    if study.name not in BUILT_IN or study.seeds != tuple(range(len(study.seeds))):
        return False
    if study.scale not in get_args(Scale):
        return False
    planned = built_in(study.name, cast(Scale, study.scale))
    return dataclasses.replace(planned, seeds=study.seeds, threads=study.threads) == study
