"""Augmented convolutions that may read the outputs of their heads as the program of 2019 did.

Letters: B batch, N heads, H rows, W columns, E value channels a head.
"""

from torch import Tensor

from attnconv.layers.augmented_conv import AugmentedConv2d

HEAD_LAYOUTS = ("correct", "legacy")


class HeadLayoutConv2d(AugmentedConv2d):
    """`AugmentedConv2d` with an attribute ``head_layout``: "correct", or "legacy", which differs where E > 1.

    Source: Attention-Augmented-Conv2d (2019), which takes the positions of a head's values for its channels.
    """

    head_layout: str = "correct"

    def extra_repr(self) -> str:
        return super().extra_repr() + (", head_layout='legacy'" if self.head_layout == "legacy" else "")

    def _merge_heads(self, y: Tensor) -> Tensor:
        if self.head_layout == "correct":
            return super()._merge_heads(y)
        # (B, N, H, W, E) read as if it were (B, N, E, H, W): right for E = 1 alone.
        return y.reshape(y.shape[0], -1, *y.shape[2:4])
