"""attnconv models and summary: networks by name, published networks compared with ours, and the cost of one."""

import fnmatch
from typing import Any

from attnconv import checks, networks
from attnconv.bench.published import PUBLISHED
from attnconv.cli.flags import NO_SURGERY, ImageSize, Surgery, pairs, require_network
from attnconv.cli.terminal import amount, note, print_json, print_table, say
from attnconv.train.config import yaml_text


def models(pattern: str = "*", *, table: bool = False, json: bool = False) -> None:
    """List the networks that can be created by name.

    Parameters
    ----------
    pattern:
        Shell pattern, such as 'aa_*'.
    table:
        Print the published networks instead, with our parameters and FLOPs and the paper's.
    json:
        Print one JSON list.
    """
    if table:
        _print_published(pattern, json)
        return
    names = networks.list_models(pattern) + networks.list_models(pattern, dense=True)
    if not names:
        known = networks.list_models() + networks.list_models(dense=True)
        raise checks.InputError(f"no network matches {pattern!r}; {checks.nearest(pattern, known)}")
    found = [_described(name) for name in names]
    if json:
        print_json(found)
        return
    options = [one.get("error") or " ".join(f"{k}={_as_yaml(v)}" for k, v in one["options"].items()) for one in found]
    print_table(("network", "options and their defaults"), list(zip(names, options, strict=True)), fold=True)


def _described(name: str) -> dict[str, Any]:
    """Return the name and the options of a network, or the error of an installed package that offers it."""
    if (found := networks.find(name)) is not None:
        return {"name": name, "options": found[0].options}
    from attnconv.models.registry import find

    try:
        return {"name": name, "options": find(name).options}
    except checks.InputError as error:
        return {"name": name, "error": str(error)}


def _as_yaml(value: Any) -> str:
    """Return ``value`` as --option takes it: [2,3], null, true."""
    return yaml_text(value, default_flow_style=True).partition("\n")[0].replace(", ", ",")


def _print_published(pattern: str, json: bool) -> None:
    known = dict.fromkeys(row.name for row in PUBLISHED)
    if not fnmatch.filter(known, pattern):
        raise checks.InputError(f"no published network matches {pattern!r}; {checks.nearest(pattern, known)}")
    from attnconv.bench.cost import HEADER, UNVERIFIED, compare

    found = compare(pattern)
    if json:
        print_json([row.to_dict() for row in found])
        return
    print_table(HEADER, [row.cells() for row in found])
    note("GFLOPs: 2 a MAC of everything; paper's way: as it counts, attention products 1 a MAC, no position terms.")
    if any(row.published.unverified for row in found):
        note(UNVERIFIED)


def summary(
    model: str,
    *,
    image_size: ImageSize = 32,
    num_classes: int = 10,
    in_channels: int = 3,
    option: list[str] | None = None,
    surgery: Surgery = NO_SURGERY,
    json: bool = False,
) -> None:
    """Print the cost of a network for one image: parameters, multiply-adds, FLOPs, attention memory.

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
    rows, columns = checks.per_axis("image_size", image_size or 32, 2, at_least=1)
    options, attention_steps = pairs(option), surgery.steps()
    require_network(model, options)
    import torch

    from attnconv.bench.cost import cost
    from attnconv.models.registry import build_model

    with torch.device("meta"):
        network, _ = build_model(
            model,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=(rows, columns),
            attention=attention_steps,
            options=options,
        )
    found = cost(network, in_channels=in_channels, image_size=(rows, columns))
    if json:
        print_json({"model": model, "image_size": image_size, "num_classes": num_classes, **found.to_dict()})
        return
    say(f"{model}, {num_classes} classes, one image of {in_channels} x {rows} x {columns}")
    quantities = [
        ("parameters", f"{found.params:,}", ""),
        ("MACs", amount(found.macs), "convolutions, matrix products, position terms"),
        ("FLOPs", amount(found.flops), "2 a MAC of all of these"),
        ("FLOPs, the paper's way", amount(found.paper_flops), "attention products 1 a MAC, no position terms"),
    ]
    print_table(("quantity", "value", "count"), quantities, fold=True)
    if not found.attention:
        return
    note("Attention, memory of one image in float32: eager has all logits at once, linear only q, k, v and output")
    rows = [
        (a.name, amount(a.eager_bytes, "B"), amount(a.linear_bytes, "B"), " x ".join(map(str, a.map_size)), a.num_heads)
        for a in found.attention
    ]
    print_table(("layer", "eager", "linear", "map", "heads"), rows)
