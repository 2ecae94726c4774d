"""attnconv summary: what a network costs."""

from typing import Annotated

from cyclopts import Parameter

from attnconv.cli.options import pairs
from attnconv.cli.output import amount, print_json, print_table


def summary(
    model: str,
    *,
    image_size: int = 32,
    num_classes: int = 10,
    in_channels: int = 3,
    option: Annotated[list[str] | None, Parameter(negative=())] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """What a network costs for one image: parameters, multiply-adds, FLOPs, attention memory.

    Parameters
    ----------
    model:
        A name of `attnconv models`.
    image_size:
        Side of the square image, pixels.
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
    from attnconv.models import create_model
    from attnconv.models.registry import check_options

    options = pairs(option)
    check_options(model, options)
    with torch.device("meta"):
        network = create_model(
            model, num_classes=num_classes, in_channels=in_channels, image_size=image_size, **options
        )
    found = cost(network, in_channels=in_channels, image_size=(image_size, image_size))
    if json:
        print_json({"model": model, "image_size": image_size, "num_classes": num_classes, **found.to_dict()})
        return
    print(f"{model}, {num_classes} classes, one image of {in_channels} x {image_size} x {image_size}")
    print_table(
        ("quantity", "value", "how it is counted"),
        [
            ("parameters", f"{found.params:,}", ""),
            ("MACs", amount(found.macs), "convolutions, matrix products, position terms"),
            ("FLOPs", amount(found.flops), "2 a MAC of all of these"),
            ("FLOPs, the paper's way", amount(found.paper_flops), "attention products 1 a MAC, no position terms"),
        ],
    )
    if found.attention:
        print("Attention, memory of one image in float32: all logits at once (eager), or q, k, v and output (linear)")
        print_table(
            ("layer", "map", "heads", "eager", "linear", "ratio"),
            [
                (
                    a.name,
                    " x ".join(map(str, a.map_size)),
                    a.num_heads,
                    amount(a.eager_bytes, "B"),
                    amount(a.linear_bytes, "B"),
                    f"{a.eager_bytes / a.linear_bytes:.1f}",
                )
                for a in found.attention
            ],
        )
