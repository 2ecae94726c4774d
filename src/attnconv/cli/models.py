"""attnconv models: the registry, and the published networks beside ours."""

from typing import Annotated, Any

from cyclopts import Parameter

from attnconv.cli.output import print_json, print_table


def models(
    pattern: str = "*",
    *,
    table: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """List the networks that can be created by name.

    Parameters
    ----------
    pattern:
        Shell pattern, such as 'aa_*'.
    table:
        Print the published networks instead: our parameters and FLOPs beside the paper's.
    json:
        Print one JSON list.
    """
    from attnconv import checks
    from attnconv.models import list_models
    from attnconv.models.registry import model_options

    if table:
        _table(pattern, json)
        return
    names = list_models(pattern) + list_models(pattern, dense=True)
    if not names:
        known = list_models() + list_models(dense=True)
        raise checks.InputError(f"no network matches {pattern!r}; {checks.nearest(pattern, known)}")
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


def _table(pattern: str, json: bool) -> None:
    from attnconv import checks
    from attnconv.bench.cost import HEADER, PUBLISHED, UNVERIFIED, compare

    found = compare(pattern)
    if not found:
        known = dict.fromkeys(row.name for row in PUBLISHED)
        raise checks.InputError(f"no published network matches {pattern!r}; {checks.nearest(pattern, known)}")
    if json:
        print_json([row.to_dict() for row in found])
        return
    print_table(HEADER, [row.cells() for row in found])
    print("GFLOPs: 2 a MAC of everything; paper's way: as it counts, attention products 1 a MAC, no position terms.")
    if any(row.published.unverified for row in found):
        print(UNVERIFIED)
