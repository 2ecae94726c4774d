"""The signatures and checkpoints of two public implementations of 2019, and of fastai's, on this library's layers.

Sources: Attention-Augmented-Conv2d (PyTorch 1.0) and SimpleSelfAttention (fastai 1.0). The classes here load single
layers, `load_checkpoint` whole networks, and `load_self_attention` layers of public SAGANs.
"""

from attnconv.compat.checkpoint import load_checkpoint
from attnconv.compat.layers import AugmentedConv, InPaperAugmentedConv, SelfAttention, SimpleSelfAttention
from attnconv.compat.sagan import load_self_attention

__all__ = [
    "AugmentedConv",
    "InPaperAugmentedConv",
    "SelfAttention",
    "SimpleSelfAttention",
    "load_checkpoint",
    "load_self_attention",
]
