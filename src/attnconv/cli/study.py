"""attnconv study: many runs of a plan, on this machine or on Ray, kept in one folder."""

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App

from attnconv import checks
from attnconv.cli.flags import words
from attnconv.cli.terminal import print_json, print_table, say, tell
from attnconv.extensions import import_factory, is_factory

if TYPE_CHECKING:
    from attnconv.study.folder import StudyFolder

Scale = Literal["published", "small"]

study = App(name="study", help_format="markdown")


@study.command
def run(
    plan: str,
    *,
    out: Path | None = None,
    scale: Scale | None = None,
    seeds: int | None = None,
    only: str | None = None,
    threads: int | None = None,
    memory_gb: float | None = None,
    ray: str | None = None,
    extend: bool = False,
    mix_versions: bool = False,
    json: bool = False,
) -> None:
    """Do the runs of a study that are missing.

    Finished and diverged runs stay as they are, interrupted ones go on from their last checkpoint, failed ones are
    tried again.

    Parameters
    ----------
    plan:
        A name of `attnconv study list`, a YAML file, or the folder of a study to go on with.
    out:
        Folder of the study. [default: studies/NAME or studies/NAME-small]
    scale:
        Size of a built-in study: published, for a GPU, or small, for about an hour of two CPU cores.
        [default: published]
    seeds:
        Number of seeds, from 0, instead of the plan's.
    only:
        Arms or blocks to run, separated by commas, with their baselines.
    threads:
        CPU threads of each run. [default: all of this machine, divided by its GPUs]
    memory_gb:
        Memory that Ray reserves for each run, 10^9 bytes.
    ray:
        Run on Ray: HOST:PORT, ray://HOST:PORT, auto, or local to start one here. Needs attnconv[ray].
    extend:
        Accept arms and seeds that the study in the folder does not have.
    mix_versions:
        Go on although runs of the folder were made by another version.
    json:
        Print the counts and the records as one JSON object.
    """
    from attnconv.study.folder import StudyFolder
    from attnconv.study.plan_file import BUILT_IN, built_in, read_study
    from attnconv.study.run import run_study

    if plan not in BUILT_IN and scale is not None:
        raise checks.InputError(f"--scale is for built-in studies ({', '.join(BUILT_IN)}), got {plan!r}")
    if plan in BUILT_IN:
        chosen = built_in(plan, scale or "published")
    elif Path(plan).is_dir():
        if out is not None:
            raise checks.InputError(f"--out cannot be used with the folder of a study, got {plan}")
        out = Path(plan)
        chosen = StudyFolder(out).study()
    elif Path(plan).suffix in (".yaml", ".yml") or Path(plan).exists():
        chosen = read_study(Path(plan))
        for name in dict.fromkeys(chosen.config(arm, chosen.seeds[0]).model for arm in chosen.arms):
            if is_factory(name):
                tell(f"imports {name}")
                import_factory(name)
    else:
        known = checks.nearest(plan, BUILT_IN)
        raise checks.InputError(f"{plan!r} is neither a built-in study nor a file or folder of one; {known}")
    if only is not None:
        chosen = chosen.only(words(only))
    given = {"seeds": seeds, "threads": threads, "memory_gb": memory_gb}
    chosen = dataclasses.replace(chosen, **{name: value for name, value in given.items() if value is not None})
    # studies/NAME below the current folder, studies/NAME-small for the small size
    name = chosen.name if chosen.scale != "small" else f"{chosen.name}-small"
    folder = StudyFolder(out or Path("studies") / name)
    chosen.require_runnable()  # before Ray is asked for anything
    with contextlib.ExitStack() as stack:
        executor = None
        if ray is not None:
            from attnconv.study.ray import ray_cluster

            executor = stack.enter_context(ray_cluster(ray))
        found = run_study(chosen, folder, executor, extend=extend, mix_versions=mix_versions)
    _show(folder, found, json=json)
    if failed := [record for record in found if record["state"] == "failed"]:
        first = f"{failed[0]['arm']}-seed{failed[0]['seed']}"
        raise checks.InputError(
            f"{len(failed)} of {len(found)} runs failed, and the next `study run` tries them again; {first}: "
            f"{failed[0]['reason']}"
        )


@study.command
def status(folder: Path, *, json: bool = False) -> None:
    """Print which runs of a study are done, diverged, failed, running and missing.

    Parameters
    ----------
    folder:
        Folder of the study.
    json:
        Print the counts and the records as one JSON object.
    """
    from attnconv.study.folder import StudyFolder, records

    place = StudyFolder(folder)
    plan = place.study()
    place.require_as_planned(plan)
    _show(place, records(place, plan), json=json)


@study.command
def report(folder: Path, *, json: bool = False) -> None:
    """Compare the arms of a study: report.html, report.md with its drawings, summary.tex and CSV files in its folder.

    The page loads nothing from anywhere.

    Parameters
    ----------
    folder:
        Folder of the study; without its runs, records.jsonl is read.
    json:
        Print the files, the counts and the rows of summary.csv as one JSON object.
    """
    from attnconv.study.report import write_report
    from attnconv.study.tables import findings, no_verdict, verdict_table

    written = write_report(folder)
    files = [str(path) for path in written.files]
    if json:
        print_json({"files": files, "counts": written.runs, "summary": written.summary()})
        return
    if sentence := no_verdict(written.compared):
        say(sentence)
    for found in findings(written.compared):
        say(f"{found.head} {found.text}")
    table = verdict_table(written.study, written.compared)
    # A narrow terminal drops columns from the right: the interval, which the findings tell, goes before p.
    header, *rows = [(*row[:3], *row[4:6], row[3], *row[6:]) for row in (table.header, *table.rows)]
    print_table(header, rows)
    for file in files:
        say(file)


@study.command(name="list")
def list_() -> None:
    """List the built-in studies."""
    from attnconv.study.plan_file import BUILT_IN, built_in

    rows = []
    for name in BUILT_IN:
        plans = [built_in(name, scale) for scale in ("published", "small")]
        rows.append((name, *(f"{len(plan.arms)} x {len(plan.seeds)}" for plan in plans), plans[0].text))
    print_table(("study", "arms x seeds", "small", "question"), rows, fold=True)


def _show(folder: "StudyFolder", found: list[dict[str, Any]], *, json: bool) -> None:
    from attnconv.study.folder import STATES, counts

    if json:
        print_json({"folder": str(folder.path), "counts": counts(found), "records": found})
        return
    done = counts(found)
    say(f"{folder.path}: " + ", ".join(f"{done[state]} {state}" for state in STATES if done[state]))
    arms = dict.fromkeys(record["arm"] for record in found)
    by_arm = [(arm, counts([record for record in found if record["arm"] == arm])) for arm in arms]
    print_table(("arm", *STATES), [(arm, *(states[state] for state in STATES)) for arm, states in by_arm])
    for what in ("version", "commit"):
        if len(values := sorted({record[what] for record in found if record.get(what)})) > 1:
            say(f"runs of {len(values)} {what}s: {', '.join(values)}")
    for record in found:
        if record["state"] != "done" and record["reason"]:
            say(f"{record['arm']}-seed{record['seed']}: {record['state']}, {record['reason']}")
