"""Multiply-adds, FLOPs and attention memory of a network for one image, and the published sizes of such networks.

The full count is 2 FLOPs a multiply-add (MAC) of every convolution, matrix product and position term. The paper's
count (Bello et al. 2019, arXiv:1904.09925, tables 1 and 2) takes 1 FLOP a MAC for the two attention products and omits
the position terms; its rows fit no other reading.

Letters: N heads, L positions of the map, D key / E value channels a head.
"""

import copy
import fnmatch
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attnconv.bench.published import PUBLISHED, Published
from attnconv.layers.activity import map_given
from attnconv.layers.attention import Attention, AttentionCost
from attnconv.models import create_model
from attnconv.models.registry import CIFAR100, IMAGENET, Images


@dataclass(frozen=True)
class Cost:
    """A network and one image."""

    params: int
    macs: int
    flops: int
    paper_flops: int
    attention: tuple[AttentionCost, ...]

    def to_dict(self) -> dict:
        return asdict(self)


def cost(model: nn.Module, *, in_channels: int, image_size: tuple[int, int]) -> Cost:
    """Count ``model`` on one image (1, in_channels, rows, columns), on the meta device."""
    shadow = copy.deepcopy(model).to("meta").eval()
    found: list[AttentionCost] = []
    names = {layer: name for name, layer in shadow.named_modules()}

    def record(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any], _: Any) -> None:
        if (one := layer.attention_cost(layer.attention_map_size(map_given(layer, inputs, named)))) is not None:
            found.append(replace(one, name=names[layer]))

    for layer in names:
        if isinstance(layer, Attention):
            layer.register_forward_hook(record, with_kwargs=True)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(1, in_channels, *image_size, device="meta"))
    flops = counter.get_total_flops()
    products, positions = (sum(getattr(a, kind) for a in found) for kind in ("product_macs", "position_macs"))
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=flops // 2,
        flops=flops,
        paper_flops=flops - products - 2 * positions,
        attention=tuple(found),
    )


DATA = {"CIFAR-100": CIFAR100, "ImageNet": IMAGENET, "Imagewoof": Images(10, 256)}


@dataclass(frozen=True)
class Compared:
    """A published network and the size of ours."""

    published: Published
    params: int
    flops: int  # 2 a MAC of all
    paper_flops: int  # as the paper counts

    @property
    def agrees(self) -> str:
        """ "yes" if ours, rounded to the digits that were printed, is the same; "-" if none were."""
        pairs = {
            "params": (self.published.params, self.params / 1e6),
            "FLOPs": (self.published.gflops, self.paper_flops / 1e9),
        }
        known = {what: (text, ours) for what, (text, ours) in pairs.items() if text is not None}
        wrong = [what for what, (text, ours) in known.items() if f"{ours:.{_decimals(text)}f}" != text]
        if not known:
            return "-"
        return f"no: {', '.join(wrong)}" if wrong else "yes"

    def cells(self) -> tuple[str, ...]:
        """A row of the table that HEADER heads."""
        row = self.published
        options = "".join(f" {key}={value}" for key, value in row.options.items())
        mark = UNVERIFIED_MARK if row.unverified else ""
        return (
            row.name + options,
            row.data,
            f"{self.params / 1e6:.2f}",
            row.params + mark if row.params else "-",
            f"{self.flops / 1e9:.2f}",
            f"{self.paper_flops / 1e9:.2f}",
            row.gflops + mark if row.gflops else "-",
            self.agrees,
        )

    def to_dict(self) -> dict[str, Any]:
        ours = {"params": self.params, "flops": self.flops, "paper_flops": self.paper_flops}
        return {**ours, "published": asdict(self.published), "agrees": self.agrees}


UNVERIFIED_MARK = "†"
UNVERIFIED = f"{UNVERIFIED_MARK} unverified: quoted from memory, not read in the paper."
HEADER = ("network", "data", "M params", "published", "GFLOPs", "paper's way", "published", "agrees")


def compare(pattern: str = "*") -> list[Compared]:
    """Build the published networks whose names match a shell pattern, on the meta device, and count them."""
    found = []
    for row in PUBLISHED:
        if not fnmatch.fnmatchcase(row.name, pattern):
            continue
        data = DATA[row.data]
        with torch.device("meta"):
            model = create_model(row.name, **asdict(data), **row.options)
        ours = cost(model, in_channels=3, image_size=(data.image_size, data.image_size))
        found.append(Compared(row, ours.params, ours.flops, ours.paper_flops))
    return found


def _decimals(text: str) -> int:
    return len(text.partition(".")[2])
