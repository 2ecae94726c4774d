"""The layers of two programs of 2019 and of fastai, with their arguments, names and first weights.

Sources: Attention-Augmented-Conv2d, attention_augmented_conv.py and the file of that name in its folder
in_paper_attention_augmented_conv; SimpleSelfAttention, xresnet.py; fastai 1 and 2, layers.py.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn

from attnconv import checks
from attnconv.foreign import read_state_dict
from attnconv.layers import SelfAttention as _SelfAttention
from attnconv.layers import SimpleSelfAttention as _SimpleSelfAttention
from attnconv.layers.spectral_norm import constrained_conv
from attnconv.models.seed_wide_resnet import HEAD_LAYOUTS, HeadLayoutConv2d


class CheckpointLayer(nn.Module):
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict, or a file's {"model": state dict, ...}, with or without ``module.`` before all names."""
        return super().load_state_dict(_tensors_of(state_dict), strict, assign)


def _tensors_of(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tensors in ``state_dict`` by name, with torch's record of the versions of modules.

    An empty mapping is returned as it is: torch reports the missing keys.
    """
    if isinstance(state_dict, Mapping) and not state_dict:
        return state_dict
    tensors = OrderedDict(read_state_dict(state_dict).tensors)
    if (versions := getattr(state_dict, "_metadata", None)) is not None:
        tensors._metadata = versions  # pyright: ignore[reportAttributeAccessIssue]
    return tensors


class AugmentedConv(CheckpointLayer, HeadLayoutConv2d):
    """`AugmentedConv2d` with the arguments, parameter names and initialisation of the 2019 class.

    A convolution of the same kernel computes q, k and v, the position tables are drawn from N(0, 1), and every
    convolution has a bias. ``in_channels``, ``out_channels``, ``kernel_size`` and ``stride`` are as in nn.Conv2d.

    Shapes: (B, in_channels, H_in, W_in) -> (B, out_channels, H, W).

    Args:
        dk: key_channels.
        dv: value_channels.
        Nh: num_heads.
        shape: side of the output map that the tables cover; required for relative=True.
        relative: use relative positions.
        padding: of both convolutions; (kernel_size - 1) // 2 if None.
        head_layout: "correct", or "legacy", the order in which the 2019 class read the heads' outputs: a checkpoint
            trained with it needs that. They differ when dv / Nh > 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dk: int,
        dv: int,
        Nh: int,
        shape: int | tuple[int, int] = 0,
        relative: bool = False,
        stride: int = 1,
        padding: int | None = None,
        head_layout: str = "correct",
    ) -> None:
        checks.integer("kernel_size", kernel_size, at_least=1)
        if relative and shape == 0:
            raise checks.InputError("relative=True needs shape, the side of the output map; got 0")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            (kernel_size - 1) // 2 if padding is None else padding,
            key_channels=dk,
            value_channels=dv,
            num_heads=Nh,
            feat_size=shape if relative else None,
            position="relative" if relative else None,
            qkv_kernel_size=kernel_size,
        )
        self.head_layout = checks.one_of("head_layout", head_layout, HEAD_LAYOUTS)

    def _reset_tables(self) -> None:
        """Draw the position tables anew from N(0, 1)."""
        for table in self.tables or ():
            nn.init.normal_(table)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict, or a file's {"model": state dict, ...}, with or without ``module.`` before all names.

        Raises:
            InputError: the state dict is of `InPaperAugmentedConv`.
        """
        state = _tensors_of(state_dict)
        weight = state.get("qkv_conv.weight")
        if getattr(weight, "shape", ())[2:] == (1, 1) and self.qkv_kernel_size != (1, 1):
            raise checks.InputError(
                "the projection in this state dict is 1x1: it is of the class in in_paper_attention_augmented_conv, "
                "which compat.InPaperAugmentedConv loads"
            )
        return super().load_state_dict(state, strict, assign)


class InPaperAugmentedConv(CheckpointLayer, HeadLayoutConv2d):
    """The 2019 class of the folder in_paper_attention_augmented_conv: a 1x1 convolution computes q, k and v.

    It had no trained positions: with ``relative`` it drew new tables at each forward, which no checkpoint holds.
    `AugmentedConv2d` with a 1x1 projection accepts its state dicts but reads the heads in another order: only this
    class gives the numbers that they were trained for.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H, W).

    Args:
        kernel_size: 3; no other gave a map of the input's size there.
        dk: key_channels.
        dv: value_channels.
        Nh: num_heads.
        relative: False.
        head_layout: "legacy", the order of the 2019 class, or "correct".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dk: int,
        dv: int,
        Nh: int,
        relative: bool = False,
        head_layout: str = "legacy",
    ) -> None:
        if checks.integer("kernel_size", kernel_size, at_least=1) != 3:
            raise checks.InputError(f"compat.InPaperAugmentedConv has kernel_size 3 alone, got {kernel_size}")
        if relative:
            raise checks.InputError(
                "relative=True drew new position tables at each forward, which no checkpoint holds; relative=False "
                "computes what is left without them"
            )
        super().__init__(
            in_channels,
            out_channels,
            3,
            padding=1,
            key_channels=dk,
            value_channels=dv,
            num_heads=Nh,
            position=None,
        )
        self.head_layout = checks.one_of("head_layout", head_layout, HEAD_LAYOUTS)


class SelfAttention(CheckpointLayer, _SelfAttention):
    """`attnconv.SelfAttention` with the argument of fastai's class; loads the state dicts of fastai 1 and 2.

    Shapes: (B, n_channels, *map) -> the same.

    Args:
        n_channels: channels.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__(n_channels)


class SimpleSelfAttention(CheckpointLayer, _SimpleSelfAttention):
    """`attnconv.SimpleSelfAttention` with the arguments of the 2019 class; loads its state dicts.

    Shapes: (B, n_in, *map) -> the same.

    Args:
        n_in: channels.
        ks: kernel of the convolution over the flattened map, odd.
        sym: use a symmetric weight. The option had no effect in 2019, so checkpoints of that time need sym=False.
    """

    def __init__(self, n_in: int, ks: int = 1, sym: bool = False) -> None:
        if checks.integer("ks", ks, at_least=1) % 2 == 0:
            raise checks.InputError(f"ks must be odd, so that the map keeps its size; got {ks}")
        if sym and ks > 1:
            raise checks.InputError(f"sym=True needs ks=1, got ks={ks}")
        super().__init__(n_in, symmetric=sym)
        if ks > 1:
            self.conv = constrained_conv(n_in, n_in, ks, spectral_norm=True)
