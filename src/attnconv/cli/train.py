"""attnconv train: one run."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from attnconv import checks
from attnconv.cli.options import pairs, run_options
from attnconv.cli.output import print_json
from attnconv.train.config import RunConfig

RunOptions = run_options()


def train(
    *,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative=())] = False,
    config: Path | None = None,
    option: Annotated[list[str] | None, Parameter(negative=())] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    options: Annotated[RunOptions, Parameter(name="*")] = {},  # type: ignore[valid-type]  # noqa: B006
) -> None:
    """Train a network and leave the run in a folder.

    Options given here override the file of --config, which overrides the defaults.

    Parameters
    ----------
    out:
        Folder of the run; runs/MODEL-DATA-seedN if not given.
    resume:
        Go on with the run in --out, with its own options.
    config:
        YAML file of options, in the names of config.yaml.
    option:
        An option of the network, NAME=VALUE; may be repeated.
    json:
        Print the result as one JSON object.
    """
    from attnconv.recipes import default_out, run

    values: dict[str, Any] = {}
    source = "the command line"
    if resume:
        if out is None:
            raise checks.InputError("--resume needs --out, the folder of the run")
        if config is not None:
            raise checks.InputError("--resume takes the run's own config.yaml; leave --config out")
        values = read_yaml(out / "config.yaml", missing=f"{out} holds no run to resume: it has no config.yaml")
    elif config is not None:
        values, source = read_yaml(config, missing=f"no file at {config}"), str(config)
    RunConfig.from_dict(values, source=source)  # so that a fault of the file is not blamed on the command line
    values |= options
    if option:
        values["model_options"] = {**values.get("model_options", {}), **pairs(option)}
    settings = RunConfig.from_dict(values, source="the command line")
    result = run(settings, out or default_out(settings), resume=resume)
    if json:
        print_json(result)
    else:
        print(
            f"{out or default_out(settings)}: top-1 {result['top1']:.2f}%, top-5 {result['top5']:.2f}% after "
            f"{result['epochs']} epochs; best top-1 {result['best_top1']:.2f}% in epoch {result['best_epoch']}; "
            f"{result['params']:,} parameters, {result['seconds']:.0f} s"
            + (f"; {result['skipped_images']} images could not be decoded" if result["skipped_images"] else "")
        )


def read_yaml(path: Path, *, missing: str) -> dict[str, Any]:
    """The names and values in a YAML file; tags that would make Python objects are refused."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise checks.InputError(missing) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise checks.InputError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise checks.InputError(f"{path} must hold names and values, got {type(values).__name__}")
    return values
