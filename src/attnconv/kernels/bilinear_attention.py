"""Bilinear attention: `eager` in plain torch, and `own_backward` with its own backward pass.

`own_backward` needs fewer products and keeps only x, or x and W x. The small matrix includes gamma, and the last
product the residual: y = x + x S or y = x + A x. The backward pass merges both gradients of x from x^T x or x x^T, and
sums the weight's gradient over all images in one product. It can be differentiated once more, but not by torch.func,
which uses `eager`.
Letters: B batch, C channels, L positions of the map.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WIDE = 32  # positions


def eager(x: Tensor, weight: Tensor, gamma: Tensor, order: str, key_weights: Tensor | None) -> Tensor:
    """Return x + gamma * x x^T W x (B, C, L) for x (B, C, L); weight (C, C) and gamma () have the computing dtype.

    ``key_weights`` (B, 1, L) weights the positions in the sums; 1 if None.
    """
    flat = x.to(weight.dtype)
    # not mT, which the older ONNX exporter lacks
    lines, summed = flat.transpose(1, 2), _weighted(flat, key_weights)
    if order == "scores":
        y = flat + flat @ gated(gamma, summed.transpose(1, 2) @ (weight @ flat))  # (B, L, L) inside
    elif order == "gram":
        y = flat + gated(gamma, summed @ lines) @ (weight @ flat)  # (B, C, C) times (B, C, L)
    else:
        y = flat + gated(gamma, (summed @ lines) @ weight) @ flat
    return y.to(x.dtype)


def own_backward(
    x: Tensor, weight: Tensor, gamma: Tensor, key_weights: Tensor | None, order: str, dtype: torch.dtype
) -> Tensor:
    """Return the same; the products of "gram_weight" run in ``dtype``, that of the weight or bfloat16."""
    if order == "scores":
        return _Scores.apply(x, weight, gamma, key_weights)  # type: ignore[return-value]
    return _GramWeight.apply(x, weight, gamma, key_weights, dtype)  # type: ignore[return-value]


def _weighted(flat: Tensor, key_weights: Tensor | None) -> Tensor:
    return flat if key_weights is None else (flat * key_weights).to(flat.dtype)


def gated(gamma: Tensor, mixing: Tensor) -> Tensor:
    """Return gamma times ``mixing``; 0 if gamma is 0, even where ``mixing`` overflowed."""
    gated = gamma * mixing
    gated.detach().masked_fill_(gamma.detach() == 0, 0)  # in the values only: gamma = 0 has a gradient
    return gated


def _autocast_off(backward: Callable) -> Callable:
    """Run a backward pass without autocast, as its forward pass."""

    @functools.wraps(backward)
    def call(ctx: Any, *grad_outputs: Tensor) -> tuple:
        kind = grad_outputs[0].device.type
        with contextlib.nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
            return backward(ctx, *grad_outputs)

    return call


class _GramWeight(torch.autograd.Function):
    """y = x + A x with A = gamma G W and G = x x^T, both (B, C, C)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gamma: Tensor, key_weights: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        flat = x.to(dtype)
        gram = torch.bmm(_weighted(flat, key_weights), flat.mT)
        ctx.save_for_backward(x, weight, gamma, key_weights, gram)
        mixing = _times_weight(gram, gamma * weight).masked_fill_(gamma == 0, 0)  # see gated
        return _add_mixed(flat, mixing, flat).to(x.dtype)

    @staticmethod
    @_autocast_off
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None, None]:
        x, weight, gamma, key_weights, gram = ctx.saved_tensors
        flat, grad = x.to(gram.dtype), grad_outputs[0].to(gram.dtype)
        if torch.is_grad_enabled():  # a second derivative has to pass through it
            gram = torch.bmm(_weighted(flat, key_weights), flat.mT)
        mixing = _times_weight(gram, weight)
        slope = torch.bmm(grad, flat.mT)  # (B, C, C), of A
        grad_gamma = (slope.to(gamma.dtype) * mixing).sum()
        slope = gamma * slope  # of G W
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (gram.reshape(-1, len(weight)).mT @ slope.reshape(-1, len(weight))).to(weight.dtype)
        grad_gram = slope @ weight.mT.to(slope.dtype)
        grad_x = _add_mixed(grad, gated(gamma, mixing.mT), grad)
        grad_x = _add_mixed(grad_x, grad_gram + grad_gram.mT, _weighted(flat, key_weights))
        return grad_x.to(x.dtype), grad_weight, grad_gamma, None, None


class _Scores(torch.autograd.Function):
    """y = x + x S with S = gamma x^T h and h = W x, (B, L, L) and (B, C, L); for fewer positions than channels.

    h is kept, since recomputing it costs a whole product with W and there are few positions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gamma: Tensor, key_weights: Tensor | None) -> Tensor:
        flat = x.to(weight.dtype)
        h, scores = _scores(flat, weight, key_weights)
        ctx.save_for_backward(x, weight, gamma, key_weights, h, scores)
        if flat.stride(1) == 1:  # channels_last, and so is the result
            return torch.baddbmm(flat.mT, gated(gamma, scores.mT), flat.mT).mT.to(x.dtype)
        return torch.baddbmm(flat, flat, gated(gamma, scores)).to(x.dtype)

    @staticmethod
    @_autocast_off
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None]:
        x, weight, gamma, key_weights, h, scores = ctx.saved_tensors
        flat, grad = x.to(weight.dtype), grad_outputs[0].to(weight.dtype)
        if torch.is_grad_enabled():  # a second derivative has to pass through them
            h, scores = _scores(flat, weight, key_weights)
        slope = torch.bmm(flat.mT, grad)  # (B, L, L), of gamma * scores
        grad_gamma = (slope * scores).sum()
        slope = _weighted((gamma * slope).mT, key_weights).mT  # of x^T h
        grad_h = torch.bmm(flat, slope)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = _lines(grad_h).mT @ _lines(flat)
        grad_x = torch.baddbmm(grad, grad, gated(gamma, scores.mT))
        grad_x = grad_x.baddbmm_(h, slope.mT).add_(_times(weight.mT, grad_h))
        return grad_x.to(x.dtype), grad_weight, grad_gamma, None


def _scores(flat: Tensor, weight: Tensor, key_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    h = _times(weight, flat)
    return h, torch.bmm(_weighted(flat, key_weights).mT, h)


def _times(weight: Tensor, x: Tensor) -> Tensor:
    """Return W x of each image: one product per image, or one for all if narrow images do not pay for reading W."""
    if x.shape[2] >= WIDE:
        return torch.bmm(weight.expand(len(x), -1, -1), x)
    return (_lines(x) @ weight.mT).view(x.mT.shape).mT


def _lines(x: Tensor) -> Tensor:
    """Return x (B, C, L) as (B * L, C)."""
    return x.mT.reshape(-1, x.shape[1])


def _add_mixed(base: Tensor, mixing: Tensor, x: Tensor) -> Tensor:
    """Return base + mixing @ x in the memory layout of ``base``; (B, C, L), (B, C, C), (B, C, L)."""
    if base.stride(1) == 1:  # channels_last
        return torch.baddbmm(base.mT, x.mT, mixing.mT).mT
    return torch.baddbmm(base, mixing, x)


def _times_weight(gram: Tensor, weight: Tensor) -> Tensor:
    """Return gram @ weight, (B, C, C) and (C, C), in the dtype of ``gram`` without rounding the weight."""
    rounded = weight.to(gram.dtype)
    if rounded.dtype == weight.dtype:
        return gram @ weight
    rest = gram @ (weight - rounded).to(gram.dtype)
    return torch.baddbmm(rest, gram, rounded.expand(len(gram), -1, -1))
