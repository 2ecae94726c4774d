"""attnconv models and summary: the networks by name, the published ones compared with ours, and the cost of one."""

from typing import Any

from attnconv import checks
from attnconv.cli.flags import Attend, Attention, Augment, ImageSize, pairs, steps
from attnconv.cli.terminal import amount, print_json, print_table


def models(pattern: str = "*", *, table: bool = False, json: bool = False) -> None:
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
    from attnconv.models import list_models
    from attnconv.models.registry import model_options

    if table:
        _print_published(pattern, json)
        return
    names = list_models(pattern) + list_models(pattern, dense=True)
    if not names:
        known = list_models() + list_models(dense=True)
        raise checks.InputError(f"no network matches {pattern!r}; {checks.nearest(pattern, known)}")
    found: list[dict[str, Any]] = []
    for name in names:
        try:
            found.append({"name": name, "options": model_options(name)})
        except checks.InputError as error:  # of an installed package that offers it
            found.append({"name": name, "error": str(error)})
    if json:
        print_json(found)
        return
    rows = [
        (one["name"], one.get("error") or " ".join(f"{k}={_as_yaml(v)}" for k, v in one["options"].items()))
        for one in found
    ]
    print_table(("network", "options and their defaults"), rows)


def _as_yaml(value: Any) -> str:
    """Return ``value`` as --option takes it: [2,3], null, true."""
    from attnconv.train.config import yaml_text

    value = list(value) if isinstance(value, tuple) else value
    text = yaml_text(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
    return text.replace(", ", ",")


def _print_published(pattern: str, json: bool) -> None:
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


def summary(
    model: str,
    *,
    image_size: ImageSize = 32,
    num_classes: int = 10,
    in_channels: int = 3,
    option: list[str] | None = None,
    augment: Augment = None,
    attend: Attend = None,
    attention: Attention = None,
    json: bool = False,
) -> None:
    """Print what a network costs for one image: parameters, multiply-adds, FLOPs, attention memory.

    Parameters
    ----------
    model:
        A name of `attnconv models`, timm:NAME, torchvision:NAME, or package.module:function.
    image_size:
        Side of the image in pixels, or rows x columns such as 128x192.
    num_classes:
        Outputs.
    in_channels:
        Image channels.
    option:
        An option of the network, NAME=VALUE; may be repeated.
    json:
        Print one JSON object.
    """
    import torch

    from attnconv.bench.cost import cost
    from attnconv.extensions import import_factory, is_factory
    from attnconv.models.registry import build_model

    rows, columns = checks.per_axis("image_size", image_size or 32, 2, at_least=1)
    if is_factory(model):
        import_factory(model)
    with torch.device("meta"):
        network, _ = build_model(
            model,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=(rows, columns),
            attention=steps(augment, attend, attention),
            options=pairs(option),
        )
    found = cost(network, in_channels=in_channels, image_size=(rows, columns))
    if json:
        print_json({"model": model, "image_size": image_size, "num_classes": num_classes, **found.to_dict()})
        return
    print(f"{model}, {num_classes} classes, one image of {in_channels} x {rows} x {columns}")
    quantities = [
        ("parameters", f"{found.params:,}", ""),
        ("MACs", amount(found.macs), "convolutions, matrix products, position terms"),
        ("FLOPs", amount(found.flops), "2 a MAC of all of these"),
        ("FLOPs, the paper's way", amount(found.paper_flops), "attention products 1 a MAC, no position terms"),
    ]
    print_table(("quantity", "value", "how it is counted"), quantities)
    if not found.attention:
        return
    print("Attention, memory of one image in float32: all logits at once (eager), or q, k, v and output (linear)")
    rows = [
        (
            a.name,
            " x ".join(map(str, a.map_size)),
            a.num_heads,
            amount(a.eager_bytes, "B"),
            amount(a.linear_bytes, "B"),
            f"{a.eager_bytes / a.linear_bytes:.1f}",
        )
        for a in found.attention
    ]
    print_table(("layer", "map", "heads", "eager", "linear", "ratio"), rows)
