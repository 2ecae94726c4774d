"""attnconv models: the registry."""

from typing import Annotated, Any

from cyclopts import Parameter

from attnconv.cli.output import print_json, print_table


def models(pattern: str = "*", *, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """List the networks that can be created by name.

    Parameters
    ----------
    pattern:
        Shell pattern, such as 'aa_*'.
    json:
        Print one JSON list.
    """
    from attnconv import checks
    from attnconv.models import list_models
    from attnconv.models.registry import model_options

    names = list_models(pattern)
    if not names:
        raise checks.InputError(f"no network matches {pattern!r}; {checks.nearest(pattern, list_models())}")
    if json:
        print_json([{"name": name, "options": model_options(name)} for name in names])
        return
    rows = [(name, " ".join(f"{k}={as_yaml(v)}" for k, v in model_options(name).items())) for name in names]
    print_table(("network", "options and their defaults"), rows)


def as_yaml(value: Any) -> str:
    """``value`` as --option takes it: [2,3], null, true."""
    import yaml

    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
    return text.replace(", ", ",")
