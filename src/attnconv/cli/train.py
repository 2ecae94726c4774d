"""attnconv train, lr-find and runs: one run, the learning rates that it could take, and the runs of a folder."""

import dataclasses
import time
import typing
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from cyclopts import Parameter

from attnconv import checks, files
from attnconv.cli.flags import Attend, Attention, Augment, ImageSize, OptionalText, pairs, steps
from attnconv.cli.terminal import duration, print_json, print_table, say
from attnconv.extensions import import_factory, is_factory
from attnconv.inactive import remark
from attnconv.train.config import RunConfig, read_yaml

if TYPE_CHECKING:
    from attnconv.train.run_folder import RunEntry


def run_options() -> Any:
    """Return a TypedDict of every field of RunConfig, none required: what was not typed stays absent."""
    hints = typing.get_type_hints(RunConfig)
    flags: dict[str, Any] = {}
    for field in dataclasses.fields(RunConfig):
        if field.name in ("model_options", "attention"):  # written in other ways
            continue
        default = "" if field.default is None or field.default is False else f" [default: {field.default}]"
        # With --no-NAME, for what a recipe or a file has set.
        hint, negative = (ImageSize, ()) if field.name == "image_size" else (hints[field.name], None)
        if hint == str | None:
            hint = OptionalText
        flags[field.name] = Annotated[hint, Parameter(help=field.metadata["help"] + default, negative=negative)]
    return TypedDict("RunOptions", flags, total=False)  # pyright: ignore[reportArgumentType]


RunOptions = run_options()


def train(
    *,
    out: Path | None = None,
    resume: bool = False,
    recipe: str | None = None,
    list_recipes: bool = False,
    config: Path | None = None,
    option: list[str] | None = None,
    augment: Augment = None,
    attend: Attend = None,
    attention: Attention = None,
    profile: bool = False,
    json: bool = False,
    of_study: Annotated[bool, Parameter(show=False)] = False,
    options: Annotated[RunOptions, Parameter(name="*")] = {},  # type: ignore[valid-type]  # noqa: B006
) -> None:
    """Train a network and leave the run in a folder.

    Options given here override the file of --config, which overrides --recipe, which overrides the defaults.

    Parameters
    ----------
    out:
        Folder of the run; runs/MODEL-DATA-seedN if not given, of a recipe runs/RECIPE-MODEL-seedN.
    resume:
        Go on with the run in --out, with its own options.
    recipe:
        A run by name, with all of its options.
    list_recipes:
        Print the recipes instead, with what was published for them.
    config:
        YAML file of options, in the names of config.yaml.
    option:
        An option of the network, NAME=VALUE; may be repeated.
    profile:
        Print a step profile at the end: the time that the loader and the operators take.
    json:
        Print the result as one JSON object, or the recipes as a JSON list.
    of_study:
        A run of a study, which `attnconv.study.process` starts: wait for its word, end with it, and leave facts.json.
    """
    if list_recipes:
        print_recipes(json)
        return
    from attnconv.recipes import default_out, run
    from attnconv.train.processes import is_first_process

    missing = None
    ready = None
    if of_study and out is not None:
        from attnconv.study.process import await_study

        ready = await_study(out)
    if resume:
        if out is None:
            raise checks.InputError("--resume needs --out, the folder of the run")
        for name, given in (("--config", config), ("--recipe", recipe)):
            if given is not None:
                raise checks.InputError(f"--resume takes the run's own config.yaml; leave {name} out")
        config, missing = out / "config.yaml", f"{out} holds no run to resume: it has no config.yaml"
    settings = run_settings(
        recipe=recipe,
        config=config,
        option=option,
        options=options | attention_of(augment, attend, attention),
        missing=missing,
    )
    out = out or default_out(settings, recipe)
    result = run(settings, out, resume=resume, profile=profile, ready=ready)
    if not is_first_process():
        return
    if json:
        print_json(result)
        return
    off = result.get("attention_off")
    said = remark(off["logits_moved"], off["predictions_changed"]) if off else ""
    miou = f", mean IoU {result['miou']:.2f}%" if "miou" in result else ""
    say(
        f"{out}: top-1 {result['top1']:.2f}%, top-5 {result['top5']:.2f}%{miou} after "
        f"{result['epochs']} epoch{'s' * (result['epochs'] != 1)}; "
        f"best top-1 {result['best_top1']:.2f}% in epoch {result['best_epoch']}; "
        f"{result['params']:,} parameters, {result['seconds']:.0f} s"
        + (
            f"; {result['skipped_images']} image{'s' * (result['skipped_images'] != 1)} could not be decoded"
            if result["skipped_images"]
            else ""
        )
        + (f"; {said}" if said else "")
    )
    if profile:
        print_profile(result.get("profile"), out)


def run_settings(
    *,
    recipe: str | None,
    config: Path | None,
    option: list[str] | None,
    options: dict[str, Any],
    missing: str | None = None,
) -> RunConfig:
    """Return the configuration that a command's ``options`` ask for, over the file ``config``, over ``recipe``.

    Raises:
        InputError: as RunConfig, `Recipe.under` and `read_yaml`; there is no such file, which ``missing`` says.
    """
    values: dict[str, Any] = {}
    if config is not None:
        values = read_yaml(config, missing=missing)
        RunConfig.from_dict(values, source=str(config))  # so that a fault of the file is not blamed on the command line
    values = {**values, **options}
    if is_factory(model := str(values.get("model", ""))) and ("model" in options or missing is None):
        import_factory(model)  # which the user names here, or in a file of their own: not in a run's config.yaml
    if option:
        values["model_options"] = {**values.get("model_options", {}), **pairs(option)}
    if recipe is not None:
        from attnconv.recipes import find_recipe

        values = find_recipe(recipe).under(values)
    return RunConfig.from_dict(values, source="the command line")


def attention_of(augment: list[str] | None, attend: list[str] | None, attention: str | None = None) -> dict[str, Any]:
    """Return the option ``attention`` that the flags ask for; {} if none is given."""
    given = attention is not None or augment or attend
    return {"attention": steps(augment, attend, attention)} if given else {}


def print_recipes(json: bool) -> None:
    from attnconv.recipes import list_recipes

    found = list_recipes()
    if json:
        names = ("name", "title", "command", "source", "expected", "measured")
        print_json([{**{name: getattr(r, name) for name in names}, "config": r.config.to_dict()} for r in found])
        return
    rows = []
    for r in found:
        c = r.config
        rows.append((r.name, c.model, c.data, c.image_size or "own", c.epochs, r.expected, r.measured or "no"))
    print_table(("recipe", "network", "data", "px", "epochs", "published, top-1 %", "measured here"), rows, right=False)
    print("A recipe is for its network's family: --model xresnet50, --model sa_xresnet50, --option symmetric=true.")


def print_profile(profile: Mapping[str, Any] | None, run: Path) -> None:
    """``profile`` as in result.json; None if the run was done before."""
    if profile is None:
        print("no profile: the run was finished already, and without one")
        return
    if profile["steps"]:
        print(
            f"{profile['steps']} steps timed: {profile['step_ms']:.1f} ms a step (median), "
            f"{profile['images_per_second']:.0f} images/s; {profile['loader_share']:.1f}% of the time waiting for the "
            "loader"
        )
    else:
        print("no step timed: there were too few; the first six warm up and are traced")
    if profile["operators"]:
        rows = [
            (entry["name"], f"{entry['ms']:.2f}", f"{entry['share']:.1f}", f"{entry['calls']:.1f}")
            for entry in profile["operators"]
        ]
        print_table(("operator", "ms a step", "% of all", "calls a step"), rows)
        say(f"Trace, for chrome://tracing or ui.perfetto.dev: {run / profile['trace']}")


def lr_find(
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    out: Path | None = None,
    recipe: str | None = None,
    config: Path | None = None,
    option: list[str] | None = None,
    augment: Augment = None,
    attend: Attend = None,
    attention: Attention = None,
    json: bool = False,
    options: Annotated[RunOptions, Parameter(name="*")] = {},  # type: ignore[valid-type]  # noqa: B006
) -> None:
    """Train for a few steps with a growing learning rate, and say which ones the loss suggests.

    Leaves lr-find.json and lr-find.png in --out. The steps are those that the run would take in one process, precision
    and compiler included. Options that this does not need are read and left aside.

    Parameters
    ----------
    low:
        Learning rate of the first step.
    high:
        Learning rate of the last step.
    steps:
        Steps, whatever the epochs.
    out:
        Folder of the curve; runs/lr-find-MODEL-DATA if not given.
    recipe:
        A recipe by name, as of `attnconv train`, whose options are taken.
    config:
        YAML file of options, in the names of config.yaml.
    option:
        An option of the network, NAME=VALUE; may be repeated.
    json:
        Print the curve as one JSON object.
    """
    import json as encoder

    from attnconv.recipes.run import lr_find as find
    from attnconv.report.plots import lr_figure

    options = options | attention_of(augment, attend, attention)
    settings = run_settings(recipe=recipe, config=config, option=option, options=options)
    folder = out or Path("runs") / f"lr-find-{settings.model.replace(':', '-')}-{Path(settings.data).name}"
    curve = find(settings, low=low, high=high, steps=steps).to_dict()
    files.make_folder(folder)
    files.write(folder / "lr-find.json", encoder.dumps(curve, indent=2))
    with files.replacing(folder / "lr-find.png") as picture:
        lr_figure(curve).savefig(picture, format="png", dpi=150)
    if json:
        print_json(curve)
        return
    for name, where in (
        ("valley", "halfway down the longest fall"),
        ("slide", "before the slope changes"),
        ("steepest", "where the loss falls fastest"),
        ("minimum", "a tenth of that with the least loss"),
    ):
        print(f"{name}: none" if curve[name] is None else f"{name}: {curve[name]:.2g}, {where}")
    say(f"{folder}: lr-find.json, lr-find.png; {len(curve['lrs'])} steps" + ", then it diverged" * curve["diverged"])


RUNS_HEADER = ("run", "model", "data", "state", "epoch", "best top-1 %", "last top-1 %", "time", "changed", "remark")


def runs(folder: Path = Path("runs"), *, json: bool = False) -> None:
    """List the runs in a folder, and below it: where they stand, and how good they are.

    Running means that a process of this machine trains into the folder; a stopped run goes on with `attnconv train
    --resume`. Time is that of the whole run once it is finished, and that of training before.

    Parameters
    ----------
    folder:
        Where to look.
    json:
        Print one JSON list.
    """
    from attnconv.train.run_folder import list_runs

    entries = list_runs(folder)
    if json:
        print_json([as_json(entry) for entry in entries])
    elif entries:
        print_table(*cells(entries))
    else:
        say(f"no runs in {folder}")


def cells(entries: Sequence["RunEntry"]) -> tuple[Sequence[str], list[list[str]]]:
    """Header and rows of the table; the last column only if there is something to remark."""
    rows = [
        [
            entry.name,
            entry.model or "",
            Path(entry.data).name if entry.data else "",
            entry.state,
            "" if entry.epochs is None else f"{entry.epochs_done or 0}/{entry.epochs}",
            percent(entry.best_top1),
            percent(entry.last_top1),
            "" if entry.seconds is None else duration(entry.seconds),
            "" if entry.changed is None else f"{duration(time.time() - entry.changed)} ago",
            entry.problem or entry.remark or "",
        ]
        for entry in entries
    ]
    width = len(RUNS_HEADER) - (not any(row[-1] for row in rows))
    return RUNS_HEADER[:width], [row[:width] for row in rows]


def as_json(entry: "RunEntry") -> dict[str, Any]:
    """The fields of RunEntry, its path as "run"."""
    changed = None if entry.changed is None else datetime.fromtimestamp(entry.changed, UTC).isoformat("T", "seconds")
    values = dataclasses.asdict(entry) | {"changed": changed}
    return {"run": str(values.pop("path")), **values}


def percent(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"
