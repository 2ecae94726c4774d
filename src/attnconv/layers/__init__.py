"""Attention layers, their base class and their registry; each owns parameters and calls one op."""

from attnconv.layers.attention import Attention, AttentionCost
from attnconv.layers.augmented_conv import AugmentedConv1d, AugmentedConv2d, AugmentedConv3d
from attnconv.layers.padding import valid_sizes
from attnconv.layers.registry import list_attention, register_attention
from attnconv.layers.self_attention import SelfAttention, SimpleSelfAttention

__all__ = [
    "Attention",
    "AttentionCost",
    "AugmentedConv1d",
    "AugmentedConv2d",
    "AugmentedConv3d",
    "SelfAttention",
    "SimpleSelfAttention",
    "list_attention",
    "register_attention",
    "valid_sizes",
]
