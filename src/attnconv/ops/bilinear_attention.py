"""Attention without a softmax: x S with the bilinear form S = x^T W x.

Source: SimpleSelfAttention (2019), which drops the softmax and the value projection of SAGAN's layer, arXiv:1805.08318.
Departures: the weight can be truly symmetric, and S can be divided by the number of positions.
Letters: B batch, C channels, L positions of the map, K kernel of the weight over the flattened map.
"""

import math

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional as F

from attnconv import checks
from attnconv.ops.arguments import as_number, require_floats, require_mask
from attnconv.ops.kernel_choice import autocast_dtype, autocast_off, exporting, has_tangent, transforming

# Queried once, since torch.compile cannot trace the query.
CPU_MULTIPLIES_BFLOAT16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
ORDERS = ("auto", "scores", "gram", "gram_weight")


def bilinear_attention(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | float,
    *,
    mask: Tensor | None = None,
    symmetric: bool = False,
    normalize: bool = False,
    order: str = "auto",
) -> Tensor:
    """Return y = gamma * x S + x with S = x^T W x, where x is (C, L).

    All products and the gradient of ``gamma`` accumulate in float32 (float64 for float64), also under autocast, except
    in the backward pass of plain torch: "gram", and all orders when compiled inside autocast. The result is exact up to
    rounding to the dtype of x. Without ``normalize`` it grows with L, and exceeds the largest float16 number (65,504)
    for x of standard deviation 3 at C = 512, L = 4096, gamma = 1.

    For x in bfloat16, "gram_weight" rounds its products to bfloat16 on devices that multiply in it. The error of the
    result is then at most twice, and that of the gradient of x three times, the rounding of the result itself; the
    gradients of the weight and of gamma are off by at most one rounding to bfloat16.

    Args:
        x: (B, C, *map), any number of map axes.
        weight: (C, C), or (C, C, 1) as a 1-D convolution holds it.
        gamma: a number, or a tensor of one element.
        mask: None, or bool (B, *map), True at positions that enter the sums; ``normalize`` divides by their number.
            Masked positions get an output too, and must be finite. All True equals no mask.
        symmetric: use (W + W^T) / 2.
        normalize: divide S by L.
        order: "scores" is x (x^T (W x)), L C^2 + 2 L^2 C multiply-adds, and holds the (L, L) scores; "gram" is
            (x x^T)(W x), 3 L C^2; "gram_weight" is ((x x^T) W) x, 2 L C^2 + C^3; "auto" is the fastest.
    Returns:
        The shape and dtype of x; exactly x where gamma is 0.
    Raises:
        ValueError: shapes or devices do not match, or ``order`` is unknown.
    """
    checks.one_of("order", order, ORDERS)
    _check(x, weight, gamma, mask)
    map_size = x.shape[2:]
    exact = torch.promote_types(x.dtype, torch.float32)
    weight = weight.flatten(1).to(exact)  # (C, C)
    if symmetric:
        weight = (weight + weight.transpose(0, 1)) / 2
    if normalize:
        weight = weight / math.prod(map_size)
    of_keys = weights_of_keys(mask, exact, normalize=normalize)
    gate = torch.as_tensor(gamma, dtype=exact, device=x.device).reshape(())
    if order == "auto":
        order = fastest_order(x.shape[1], math.prod(map_size))
    # Only ordinary autograd takes the kernel with its own backward pass, which cannot be compiled under autocast.
    compiled_mix = torch.compiler.is_compiling() and autocast_dtype(x) is not None
    literal = compiled_mix or order == "gram" or exporting() or transforming() or has_tangent(x, weight, gate)

    multiplies_bfloat16 = x.device.type == "cuda" or (x.device.type == "cpu" and CPU_MULTIPLIES_BFLOAT16)

    from attnconv.kernels.bilinear_attention import eager, own_backward

    with autocast_off(x):
        if literal:
            y = eager(x.flatten(2), weight, gate, order, of_keys)
        else:
            rounded = x.dtype == torch.bfloat16 and multiplies_bfloat16
            y = own_backward(x.flatten(2), weight, gate, of_keys, order, x.dtype if rounded else exact)
        return y.unflatten(2, map_size)


def gated(gamma: Tensor, y: Tensor) -> Tensor:
    """Return gamma times ``y``; 0 if gamma is 0, even where ``y`` overflowed."""
    from attnconv.kernels import bilinear_attention

    return bilinear_attention.gated(gamma, y)


def weights_of_keys(mask: Tensor | None, dtype: torch.dtype, *, normalize: bool) -> Tensor | None:
    """Return the weight of each position in the sums (B, 1, L), 0 where masked.

    With ``normalize`` the weights compensate a later division by L, which also counts masked positions.
    """
    if mask is None:
        return None
    flat = mask.flatten(1)[:, None].to(dtype)  # (B, 1, L)
    return flat * (flat.shape[2] / flat.sum(2, keepdim=True).clamp_min(1)) if normalize else flat


def bilinear_attention_of(
    x: Tensor, h: Tensor, gamma: Tensor, *, mask: Tensor | None = None, normalize: bool = False
) -> Tensor:
    """Return x + gamma * x S with S = x^T h for a given h = W x; x (B, C, *map), h (B, C, L).

    "gram_weight" is not available, since W cannot be separated from its product with x.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    with autocast_off(x):
        flat, h = x.flatten(2).to(exact), h.to(exact)
        if normalize:
            h = h / flat.shape[2]
        of_keys = weights_of_keys(mask, exact, normalize=normalize)
        transposed, weighted = flat.transpose(1, 2), flat if of_keys is None else flat * of_keys
        few = fastest_order(*flat.shape[1:]) == "scores"
        mixed = weighted @ (transposed @ h) if few else (weighted @ transposed) @ h
        return (flat + gated(gamma.to(exact), mixed)).unflatten(2, x.shape[2:]).to(x.dtype)


def bilinear_weights(
    x: Tensor, weight: Tensor, *, query: tuple[int, ...], mask: Tensor | None = None, normalize: bool = False
) -> Tensor:
    """Return the signed weights s_i = x_i . (W x)_j of all positions i for the position j = ``query``.

    `bilinear_attention` adds gamma * sum_i s_i x_i to x there. The weights can be negative and do not sum to 1. If W is
    symmetric, they are a row and a column of S. Memory is linear in the positions.

    Args:
        x: (B, C, *map), any number of map axes.
        weight: (C, C), or (C, C, K) with K odd, as a 1-D convolution of the flattened map holds it.
        query: a cell of the map, one index per axis.
        mask: as in `bilinear_attention`.
        normalize: divide by L.
    Returns:
        (B, *map) in float32 or wider.
    Raises:
        ValueError: ``query`` is not a cell of the map, or the weight does not fit ``x``.
    """
    require_floats("x", x)
    require_floats("weight", weight)
    map_size, c = tuple(x.shape[2:]), x.shape[1]
    if len(query) != len(map_size) or not all(0 <= i < n for i, n in zip(query, map_size, strict=True)):
        raise checks.InputError(f"query must be a cell of the map {map_size}, got {tuple(query)}")
    if tuple(weight.shape[:2]) != (c, c) or weight.dim() > 3 or weight.shape[2:].numel() % 2 == 0:
        raise checks.InputError(f"weight must be ({c}, {c}) or ({c}, {c}, odd), got {tuple(weight.shape)}")
    exact = torch.promote_types(x.dtype, torch.float32)
    weight = weight.reshape(c, c, -1).to(exact)  # (C, C, K)
    flat = x.flatten(2).to(exact)  # (B, C, L)
    at = 0
    for i, n in zip(query, map_size, strict=True):
        at = at * n + i
    around = range(at - weight.shape[2] // 2, at + weight.shape[2] // 2 + 1)
    window = flat[:, :, max(around.start, 0) : around.stop]  # (B, C, K), fewer at the ends of the map
    window = F.pad(window, (max(-around.start, 0), max(around.stop - flat.shape[2], 0)))
    row = torch.einsum("oik,bik->bo", weight, window)  # (B, C): (W x)_j
    weights = torch.einsum("bc,bcl->bl", row, flat)  # (B, L)
    if mask is not None:
        require_mask(mask, (x.shape[0], *map_size), x.device)
        weights = weights * weights_of_keys(mask, exact, normalize=normalize)[:, 0]  # pyright: ignore[reportOptionalSubscript]
    return (weights / math.prod(map_size) if normalize else weights).unflatten(1, map_size)


def fastest_order(channels: int, positions: int) -> str:
    """Return the faster of "scores" and "gram_weight"; "gram" is never faster than both.

    The multiply-adds of the forward pass cross at L = C and those of both passes at 0.904 C; measured times cross at
    about 0.9 C for C = 64, 256 and 512 (docs/results/kernels.md).
    """
    fewer = 10 * positions < 9 * channels
    if exporting() and not isinstance(fewer, Tensor):  # must not fix one side of the comparison for dynamic maps
        fewer = statically_known_true(fewer)
    return "scores" if fewer else "gram_weight"


def _check(x: Tensor, weight: Tensor, gamma: Tensor | float, mask: Tensor | None) -> None:
    for name, t in (("x", x), ("weight", weight)):
        require_floats(name, t)
        if t.device != x.device:
            raise checks.InputError(f"x and {name} must be on one device, got {x.device} and {t.device}")
    if x.dim() < 3:
        raise checks.InputError(f"x must be (batch, channels, *map), got {tuple(x.shape)}")
    c = x.shape[1]
    if tuple(weight.shape) not in ((c, c), (c, c, 1)):
        raise checks.InputError(f"weight must be ({c}, {c}), x having {c} channels; got {tuple(weight.shape)}")
    if not isinstance(gamma, Tensor) or gamma.numel() != 1:
        as_number("gamma", gamma)
    if mask is not None:
        require_mask(mask, (x.shape[0], *x.shape[2:]), x.device)
