"""Effects of the departures from the programs of 2019 that one core shows in seconds: python benchmarks/departures.py

docs/migrating.md explains each and quotes the numbers. What the programs do is written down here from a description of
it; spectral norm is torch's own of that time, which PyTorch still has.
Letters: B batch, C channels, L positions of the map, H rows, W columns.
"""

import math
import statistics
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnconv import AugmentedConv2d, SimpleSelfAttention, compat, ops
from attnconv.models.xresnet import Style
from attnconv.train.optim import flat_cosine, one_cycle

DRAWS = 9


def main() -> None:
    torch.set_num_threads(1)
    for what, value in effects():
        print(f"{value:10.4g}  {what}")


def effects() -> Iterator[tuple[str, float]]:
    """Yield what was measured and its value, the median of ``DRAWS`` draws of weights and inputs."""
    for channels in (64, 256):
        for forwards in (1, 5, 20, 100):
            what = f"spectral norm of 2019, largest singular value in forward {forwards}, C {channels}"
            yield what, median(lambda c=channels, n=forwards: largest_then(c, n))
        what = f"spectral norm here, largest singular value in forward 1, C {channels}"
        yield what, median(lambda c=channels: largest_here(c))
        what = f"spectral norm, divisor here over that of 2019 from the same state, C {channels}"
        yield what, median(lambda c=channels: order_of_vectors(c))
    for epochs in (5, 400):  # 12,454 images, 64 a step, and today's 9,025
        what = f"share by which decay alone shrinks gamma in {epochs} epochs of Imagewoof at 3e-3, one-cycle"
        yield what, shrinks(one_cycle, steps=194 * epochs, lr=3e-3)
    for epochs in (5, 20):
        what = f"share by which decay alone shrinks gamma in {epochs} epochs of Imagewoof at 8e-3, flat-cosine"
        yield what, shrinks(flat_cosine, steps=141 * epochs, lr=8e-3)
    for values in (1, 2, 10):
        what = f"heads in their right order, change of the attention channels, {values} values a head"
        yield what, median(lambda v=values: head_order(v))
    yield "position tables drawn anew, change of the attention channels", median(redrawn_tables)
    for side in (56, 14):
        yield f"blurred pool, change of its output, {side} x {side} cells", median(lambda s=side: blur(s))
    for side in (32, 64):
        for kind, products in (("(x x^T)(W x)", gram), ("x (x^T (W x))", scores), ("here, gamma 0.01,", here)):
            what = f"{kind} in float16, C 256, {side} x {side} cells: least standard deviation that overflows"
            yield what, overflows_at(products, side)


def median(measure: Callable[[], float]) -> float:
    found = []
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        found.append(measure())
    return statistics.median(found)


def largest_singular_value(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.flatten(1), 2))


def layer_then(channels: int, forwards: int) -> nn.Conv1d:
    """A He-normal convolution under the spectral norm of 2019, behind so many forwards in training mode."""
    conv = nn.Conv1d(channels, channels, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        nn.utils.spectral_norm(conv)
        for _ in range(forwards):
            conv(torch.zeros(1, channels, 1))
    return conv


@torch.no_grad()
def largest_then(channels: int, forwards: int) -> float:
    return largest_singular_value(layer_then(channels, forwards).weight)


@torch.no_grad()
def largest_here(channels: int) -> float:
    return largest_singular_value(SimpleSelfAttention(channels).conv.weight)


@torch.no_grad()
def order_of_vectors(channels: int) -> float:
    """The divisor of the forward after the 20th here, over that of 2019, both from its state after 20."""
    then = layer_then(channels, 20)
    here = compat.SimpleSelfAttention(channels)
    here.conv.load_state_dict(then.state_dict())
    then(torch.zeros(1, channels, 1))
    return float(then.weight.norm() / here.conv.weight.norm())


def shrinks(schedule: Callable[..., float], *, steps: int, lr: float) -> float:
    """The share that a decay of 1e-2 takes off a parameter which no gradient moves."""
    factors = (1 - 1e-2 * schedule(step, steps, peak=lr, warmup=0.3) for step in range(steps))
    return 1 - math.prod(factors)


@torch.no_grad()
def head_order(values: int) -> float:
    """Relative change of the attention channels between both orders, at random weights: (2, 4 * values, 16, 16)."""
    right = compat.AugmentedConv(16, 64, 3, dk=80, dv=4 * values, Nh=4, shape=16, relative=True)
    legacy = compat.AugmentedConv(16, 64, 3, dk=80, dv=4 * values, Nh=4, shape=16, relative=True, head_layout="legacy")
    legacy.load_state_dict(right.state_dict())
    x = torch.randn(2, 16, 16, 16)
    return change(legacy(x)[:, -4 * values :], right(x)[:, -4 * values :])


@torch.no_grad()
def redrawn_tables() -> float:
    """Relative change of one layer's attention channels when its tables are drawn anew from N(0, 1)."""
    layer = AugmentedConv2d(16, 64, 3, padding=1, key_channels=80, value_channels=8, num_heads=4, feat_size=16)
    x, found = torch.randn(2, 16, 16, 16), []
    for _ in range(2):
        for table in layer.tables or ():
            nn.init.normal_(table)
        found.append(layer(x)[:, -8:])
    return change(*found)


def blur(side: int) -> float:
    """Relative change of a blurred pool's output for noise behind a ReLU, (2, 8, side, side)."""
    style = Style(
        stem=(32, 64, 64),
        act="relu",
        shortcut_pool="max",
        blur_pool=True,
        se=False,
        groups=1,
        width_per_group=64,
        output_stride=32,
    )
    x = torch.randn(2, 8, side, side).relu()
    highest = F.max_pool2d(x, 3, stride=1, padding=1)
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = (line[:, None] * line).repeat(8, 1, 1, 1)  # (8, 1, 5, 5)
    then = F.avg_pool2d(F.conv2d(F.pad(highest, (2, 2, 2, 2), mode="reflect"), kernel, groups=8), 2)
    return change(style.max_pool(8, 3)(x), then)


def gram(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply as the last version of the layer of 2019."""
    return (x @ x.mT) @ (weight @ x)


def scores(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply as its first version."""
    return x @ (x.mT @ (weight @ x))


def here(x: Tensor, weight: Tensor) -> Tensor:
    return ops.bilinear_attention(x[None], weight, torch.tensor([0.01], dtype=x.dtype))


@torch.no_grad()
def overflows_at(products: Callable[[Tensor, Tensor], Tensor], side: int) -> float:
    """The least standard deviation of normal inputs, in halves, whose result is not finite; infinity if not up to 8.

    x (C, L) and a weight (C, C) of largest singular value 1, C 256: the first stage of an XResNet-50 has 32 x 32 cells
    at 128 px and 64 x 64 at 256.
    """
    for halves in range(1, 17):
        torch.manual_seed(0)
        weight = SimpleSelfAttention(256).conv.weight[..., 0]
        x = halves / 2 * torch.randn(256, side * side)
        if not products(x.half(), weight.half()).isfinite().all():
            return halves / 2
    return float("inf")


def change(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


if __name__ == "__main__":
    main()
