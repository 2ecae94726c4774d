"""The mathematics as functions: what each computes, what it accepts, and which kernel computes it."""

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
