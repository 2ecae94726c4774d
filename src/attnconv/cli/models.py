"""attnconv models: the registry."""

from attnconv.cli.output import print_json, print_table


def models(pattern: str = "*", *, json: bool = False) -> None:
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
    rows = [(name, ", ".join(f"{k}={v}" for k, v in model_options(name).items())) for name in names]
    print_table(("network", "options and their defaults"), rows)
