"""Layers: each owns parameters and makes one op call."""

from attnconv.layers.augmented_conv import AugmentedConv1d, AugmentedConv2d, AugmentedConv3d
from attnconv.layers.self_attention import SelfAttention, SimpleSelfAttention

__all__ = ["AugmentedConv1d", "AugmentedConv2d", "AugmentedConv3d", "SelfAttention", "SimpleSelfAttention"]
