"""attnconv train: one run; and the configuration of a run from a recipe, a file and the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from attnconv import checks
from attnconv.cli.options import pairs, run_options
from attnconv.cli.output import print_json, print_table, say
from attnconv.inactive import remark
from attnconv.train.config import RunConfig, read_yaml

RunOptions = run_options()


def train(
    *,
    out: Path | None = None,
    resume: bool = False,
    recipe: str | None = None,
    list_recipes: bool = False,
    config: Path | None = None,
    option: list[str] | None = None,
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
    settings = run_settings(recipe=recipe, config=config, option=option, options=options, missing=missing)
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
        + (f"; {result['skipped_images']} images could not be decoded" if result["skipped_images"] else "")
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
    if option:
        values["model_options"] = {**values.get("model_options", {}), **pairs(option)}
    if recipe is not None:
        from attnconv.recipes import find_recipe

        values = find_recipe(recipe).under(values)
    return RunConfig.from_dict(values, source="the command line")


def print_recipes(json: bool) -> None:
    from attnconv.recipes import list_recipes

    found = list_recipes()
    if json:
        names = ("name", "title", "command", "source", "expected", "measured")
        print_json([{**{name: getattr(r, name) for name in names}, "config": r.config.to_dict()} for r in found])
        return
    rows = [
        (
            r.name,
            r.config.model,
            r.config.data,
            r.config.image_size or "own",
            r.config.epochs,
            r.expected,
            r.measured or "no",
        )
        for r in found
    ]
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
