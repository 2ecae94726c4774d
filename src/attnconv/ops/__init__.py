"""Attention as functions: definition, argument checks, and choice of the kernel."""

from attnconv.ops.bilinear_attention import ORDERS, bilinear_attention, bilinear_weights
from attnconv.ops.kernel_choice import AttentionProblem, explain_choice
from attnconv.ops.relative_attention import IMPLS, attention_weights, relative_attention

__all__ = [
    "IMPLS",
    "ORDERS",
    "AttentionProblem",
    "attention_weights",
    "bilinear_attention",
    "bilinear_weights",
    "explain_choice",
    "relative_attention",
]
