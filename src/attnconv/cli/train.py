"""attnconv train, lr-find and runs: train a network, suggest its learning rate, and list the runs of a folder."""

import dataclasses
import json as encoder
import re
import time
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypedDict

from cyclopts import Group, Parameter

from attnconv import checks, files, networks
from attnconv.cli.flags import MODEL, NO_SURGERY, ImageSize, OptionalText, Surgery, pairs, require_data, require_network
from attnconv.cli.terminal import counted, duration, note, print_json, print_table, say
from attnconv.extensions import LIBRARIES
from attnconv.inactive import remark
from attnconv.train.config import RunConfig, read_yaml

DATA, OPTIMISATION, RUN = (Group(name, sort_key=2 + i) for i, name in enumerate(("Data", "Optimisation", "Run")))
# Groups of options in --help: each from this field of RunConfig on.
GROUPS = {
    "model": MODEL,
    "data": DATA,
    "epochs": OPTIMISATION,
    "precision": RUN,
    "clip": OPTIMISATION,
    "on_nan": RUN,
}


def run_options() -> Any:
    """Return a TypedDict of every field of RunConfig, none of them required; options not given stay absent."""
    hints = typing.get_type_hints(RunConfig)
    flags: dict[str, Any] = {}
    group = MODEL
    for field in dataclasses.fields(RunConfig):
        group = GROUPS.get(field.name, group)
        if field.name in ("model_options", "attention"):  # flags of their own
            continue
        default = "" if field.default is None or field.default is False else f" [default: {field.default}]"
        # With --no-NAME, to unset an option of a recipe or a file.
        hint, negative = (ImageSize, ()) if field.name == "image_size" else (hints[field.name], None)
        if hint == str | None:
            hint = OptionalText
        alias = "-b" if field.name == "batch_size" else None
        parameter = Parameter(help=field.metadata["help"] + default, negative=negative, alias=alias, group=group)
        flags[field.name] = Annotated[hint, parameter]
    return TypedDict("RunOptions", flags, total=False)  # pyright: ignore[reportArgumentType]


RunOptions = run_options()


@Parameter(name="*")
@dataclass(frozen=True)
class Base:
    """Sources of a run's options besides their own flags.

    Parameters
    ----------
    recipe:
        A run by name, with all of its options; `attnconv train --list-recipes` lists them.
    config:
        YAML file of options, in the names of config.yaml.
    option:
        An option of the network, NAME=VALUE; may be repeated.
    pretrained:
        Short for --init-from torchvision or timm, whichever has weights of the network.
    amp:
        Short for --precision bf16.
    """

    recipe: str | None = None
    config: Path | None = None
    option: Annotated[list[str] | None, Parameter(group=MODEL)] = None
    pretrained: Annotated[bool, Parameter(group=MODEL)] = False
    amp: Annotated[bool, Parameter(group=RUN)] = False

    def settings(self, options: dict[str, Any], surgery: Surgery, *, missing: str | None = None) -> RunConfig:
        """Return the configuration: ``options`` over the file, over the recipe. Loads no torch.

        Args:
            options: given by their own flags.
            surgery: given on the command line.
            missing: the error if there is no file ``config``.
        Raises:
            InputError: as RunConfig, `Recipe.under` and `read_yaml`; an unknown network or option of one; two flags
                that contradict each other.
        """
        values: dict[str, Any] = {}
        if self.config is not None:
            values = read_yaml(self.config, missing=missing)
            RunConfig.from_dict(values, source=str(self.config))  # so that a fault of the file is blamed on the file
        if self.amp:
            options = options | short_for("--amp", "precision", "bf16", options)
        values |= options | ({"attention": surgery.steps()} if surgery.given else {})
        if self.option:
            values["model_options"] = {**values.get("model_options", {}), **pairs(self.option)}
        if "model" in options or missing is None:  # a run's own config.yaml imports nothing
            require_network(str(values.get("model", RunConfig.model)), {})
        if self.recipe is not None:
            from attnconv.recipes import find_recipe

            values = find_recipe(self.recipe).under(values)
        if self.pretrained:
            values |= short_for("--pretrained", "init_from", weights_of(values.get("model", RunConfig.model)), options)
        found = RunConfig.from_dict(values, source="the command line")
        networks.require_known(found.model, found.model_options)
        if missing is None:  # a run's own config.yaml has its data, or says what is missing
            require_data(found.data)
        return found


def short_for(flag: str, name: str, value: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the option that ``flag`` stands for; InputError if ``options`` hold another value of it."""
    if (given := options.get(name, value)) != value:
        long = f"--{name.replace('_', '-')}"
        raise checks.InputError(f"{flag} is short for {long} {value}, and {long} {given} is given, too; leave one out")
    return {name: value}


def weights_of(model: str) -> str:
    """Return the library, torchvision or timm, that has trained weights of a network; InputError if neither has."""
    if (library := model.partition(":")[0]) in LIBRARIES:
        return library
    if (found := networks.own(model)) is None or found[0].weights is None:
        raise checks.InputError(f"--pretrained: no library has weights of {model!r}; give --init-from a file")
    return found[0].weights


NO_BASE = Base()


def train(
    *,
    out: Path | None = None,
    resume: bool = False,
    list_recipes: bool = False,
    options: Annotated[RunOptions, Parameter(name="*")] = {},  # type: ignore[valid-type]  # noqa: B006
    base: Base = NO_BASE,
    surgery: Surgery = NO_SURGERY,
    profile: bool = False,
    json: bool = False,
    of_study: Annotated[bool, Parameter(show=False)] = False,
) -> None:
    """Train a network and write the run to a folder.

    These options override those of the --config file, which override --recipe, which overrides the defaults.

    Parameters
    ----------
    out:
        Folder of the run; by default runs/MODEL-DATA-seedN, or runs/RECIPE-MODEL-seedN.
    resume:
        Continue the run in --out, with its own options.
    list_recipes:
        Print the recipes instead, with their results; with --recipe, all about that one.
    profile:
        Print a step profile at the end: time in the loader and in each operator.
    json:
        Print the result as one JSON object, or the recipes as a JSON list.
    of_study:
        A run of a study, started by `attnconv.study.process`: wait for its signal, end with it, write facts.json.
    """
    if list_recipes:
        print_recipes(base.recipe, json)
        return
    missing = ready = None
    if of_study and out is not None:
        from attnconv.study.process import await_study

        ready = await_study(out)
    recipe = base.recipe
    if resume:
        if out is None:
            raise checks.InputError("--resume needs --out, the folder of the run")
        for name, given in (("--config", base.config), ("--recipe", recipe)):
            if given is not None:
                raise checks.InputError(f"--resume takes the run's own config.yaml; leave {name} out")
        base = dataclasses.replace(base, config=out / "config.yaml")
        missing = f"{out} holds no run to resume: it has no config.yaml"
    settings = base.settings(options, surgery, missing=missing)
    from attnconv.recipes import default_out, run
    from attnconv.train.processes import is_first_process

    out = out or default_out(settings, recipe)
    result = run(settings, out, resume=resume, profile=profile, ready=ready)
    if not is_first_process():
        return
    if json:
        print_json(result)
        return
    top5 = f", top-5 {result['top5']:.2f}%" if result["top5"] < 100 else ""  # 100 % of five classes or fewer
    miou = f", mean IoU {result['miou']:.2f}%" if "miou" in result else ""
    say(
        f"{out}: top-1 {result['top1']:.2f}%{top5}{miou} after {counted(result['epochs'], 'epoch')}; "
        f"best top-1 {result['best_top1']:.2f}% in epoch {result['best_epoch']}; "
        f"{result['params']:,} parameters, {duration(result['seconds'])}"
    )
    if result["skipped_images"]:
        say(f"{counted(result['skipped_images'], 'image')} could not be decoded")
    if (off := result.get("attention_off")) and (said := remark(off["logits_moved"], off["predictions_changed"])):
        say(said)
    if profile:
        print_profile(result.get("profile"), out)


def print_recipes(name: str | None, json: bool) -> None:
    from attnconv.recipes import find_recipe, list_recipes

    found = list_recipes() if name is None else [find_recipe(name)]
    if json:
        names = ("name", "title", "command", "source", "expected", "measured")
        print_json([{**{name: getattr(r, name) for name in names}, "config": r.config.to_dict()} for r in found])
        return
    if name is not None:
        for label in ("title", "command", "source", "expected", "measured"):
            say(f"{label}: {getattr(found[0], label) or 'nothing'}")
        return
    rows = []
    for r in found:
        c = r.config
        published, here = (score_of(c.model, text or "") for text in (r.expected, r.measured))
        rows.append((r.name, c.model, published, c.image_size or "", c.epochs, here, c.data))
    print_table(("recipe", "network", "top-1 %", "px", "epochs", "our top-1 %", "data"), rows)
    note("Top-1 as published for this network; with --recipe NAME, the source and all results of one recipe.")
    note("A recipe is for its network's family: --model xresnet50, --model sa_xresnet50, --option symmetric=true.")


def score_of(model: str, text: str) -> str:
    """Return the number behind ``model`` in a recipe's text about results, or at its beginning; empty if none is."""
    found = re.search(rf"(?:^|\b{re.escape(model)} )(\d+(?:\.\d+)?)", text)
    return found[1] if found else ""


def print_profile(profile: Mapping[str, Any] | None, run: Path) -> None:
    """Print ``profile`` of result.json; None if the run was finished before."""
    if profile is None:
        say("no profile: the run was finished before, without --profile")
        return
    if profile["steps"]:
        say(
            f"{profile['steps']} steps timed: {profile['step_ms']:.1f} ms a step (median), "
            f"{profile['images_per_second']:.0f} images/s; {profile['loader_share']:.1f}% of the time in the loader"
        )
    else:
        say("no step was timed: the first six warm up and are traced")
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
    options: Annotated[RunOptions, Parameter(name="*")] = {},  # type: ignore[valid-type]  # noqa: B006
    base: Base = NO_BASE,
    surgery: Surgery = NO_SURGERY,
    json: bool = False,
) -> None:
    """Train for a few steps with a growing learning rate, and print the rates that the loss suggests.

    It writes lr-find.json and lr-find.png to --out. The steps are those of the run in one process, with its precision
    and compiler. Options that it does not need have no effect.

    Parameters
    ----------
    low:
        Learning rate of the first step.
    high:
        Learning rate of the last step.
    steps:
        Steps to train.
    out:
        Folder of the curve; by default runs/lr-find-MODEL-DATA.
    json:
        Print the curve as one JSON object.
    """
    settings = base.settings(options, surgery)
    from attnconv.recipes.training import lr_find as find
    from attnconv.report.plots import lr_figure

    folder = out or Path("runs") / f"lr-find-{settings.model.replace(':', '-')}-{Path(settings.data).name}"
    curve = dataclasses.asdict(find(settings, low=low, high=high, steps=steps))
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
        say(f"{name}: none" if curve[name] is None else f"{name}: {curve[name]:.2g}, {where}")
    say(f"{folder}: lr-find.json, lr-find.png; {len(curve['lrs'])} steps" + ", then it diverged" * curve["diverged"])


def runs(folder: Path = Path("runs"), *, json: bool = False) -> None:
    """List the runs in and below a folder, with their states and scores.

    A running run has a process of this machine; `attnconv train --resume` continues a stopped one. Time is that of the
    whole run if it is finished, else that of training so far.

    Parameters
    ----------
    folder:
        Folder of runs.
    json:
        Print one JSON list.
    """
    from attnconv.train.run_folder import list_runs

    entries = list_runs(folder)
    if json:
        print_json([as_json(entry) for entry in entries])
    elif not entries:
        say(f"no runs in {folder}")
    else:
        rows = [
            (
                entry.name,
                entry.state,
                "" if entry.epochs is None else f"{entry.epochs_done or 0}/{entry.epochs}",
                percent(entry.best_top1),
                percent(entry.last_top1),
                entry.model or "",
                Path(entry.data or "").name,
                "" if entry.seconds is None else duration(entry.seconds),
                "" if entry.changed is None else f"{duration(time.time() - entry.changed)} ago",
                entry.problem or entry.remark or "",
            )
            for entry in entries
        ]
        header = ("run", "state", "epoch", "best top-1 %", "last", "model", "data", "time", "changed", "remark")
        print_table(header, rows, fold=any(row[-1] for row in rows))


def as_json(entry: Any) -> dict[str, Any]:
    """Return the fields of a RunEntry, its path as "run"."""
    changed = None if entry.changed is None else datetime.fromtimestamp(entry.changed, UTC).isoformat("T", "seconds")
    values = dataclasses.asdict(entry) | {"changed": changed}
    return {"run": str(values.pop("path")), **values}


def percent(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"
