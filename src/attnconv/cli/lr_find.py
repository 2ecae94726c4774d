"""attnconv lr-find: how large a learning rate can be."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from attnconv import files
from attnconv.cli.options import run_options
from attnconv.cli.output import print_json, say
from attnconv.cli.train import run_settings

RunOptions = run_options()


def lr_find(
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    out: Path | None = None,
    recipe: str | None = None,
    config: Path | None = None,
    option: list[str] | None = None,
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
    from attnconv.report.run_plot import lr_drawing, lr_figure

    settings = run_settings(recipe=recipe, config=config, option=option, options=options)
    folder = out or Path("runs") / f"lr-find-{settings.model}-{Path(settings.data).name}"
    curve = find(settings, low=low, high=high, steps=steps).to_dict()
    files.make_folder(folder)
    files.write(folder / "lr-find.json", encoder.dumps(curve, indent=2))
    with files.replacing(folder / "lr-find.png") as picture:
        lr_figure(curve).savefig(picture, format="png", dpi=150)
    if json:
        print_json(curve)
        return
    print(lr_drawing(curve))
    for name, where in (("steepest", "where the loss falls fastest"), ("valley", "two thirds down its longest fall")):
        print(
            f"{name}: {curve[name]:.2g}, {where}" if curve[name] is not None else f"{name}: none, the loss never falls"
        )
    say(f"{folder}: lr-find.json, lr-find.png; {len(curve['lrs'])} steps" + ", then it diverged" * curve["diverged"])
