"""The signatures and checkpoints of two public implementations of 2019, on the layers of this library.

Sources: Attention-Augmented-Conv2d (PyTorch 1.0), whose class is `AugmentedConv`, and SimpleSelfAttention (fastai 1.0).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from attnconv import checks
from attnconv.layers import AugmentedConv2d
from attnconv.layers import SimpleSelfAttention as _SimpleSelfAttention
from attnconv.layers.self_attention import check_map
from attnconv.layers.simple_self_attention import wide_bilinear
from attnconv.layers.spectral_norm import constrained_conv, refuse_vmap_in_training


class AugmentedConv(AugmentedConv2d):
    """`AugmentedConv2d` with the arguments, parameter names and initialisation of the 2019 class.

    Its q, k, v come from a convolution of the same kernel, its position tables from N(0, 1), and every convolution has
    a bias. ``in_channels``, ``out_channels``, ``kernel_size`` and ``stride`` are as in nn.Conv2d.

    Shapes: (B, in_channels, H_in, W_in) -> (B, out_channels, H, W).

    Args:
        dk: key_channels.
        dv: value_channels.
        Nh: num_heads.
        shape: side of the output map that the tables cover; only for relative=True.
        relative: with relative positions.
        padding: of both convolutions; (kernel_size - 1) // 2 if None.
        head_layout: "correct", or "legacy" for the order of values in which the 2019 class read the heads' outputs,
            so that a checkpoint trained with it gives the numbers it was trained for. They differ when dv / Nh > 1.
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
        checks.integer("Nh", Nh, at_least=1)
        for name, width in (("dk", dk), ("dv", dv)):
            if checks.integer(name, width, at_least=1) % Nh:
                raise checks.InputError(f"{name} must be a multiple of Nh={Nh}, got {width}")
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
        self.head_layout = checks.one_of("head_layout", head_layout, ("correct", "legacy"))

    @classmethod
    def from_ratios(cls, *_: Any, **__: Any) -> Any:
        """Not of the 2019 class; raises."""
        raise checks.InputError("compat.AugmentedConv takes dk and dv; from_ratios is AugmentedConv2d's")

    def reset_parameters(self) -> None:
        """Draw the position tables anew from N(0, 1)."""
        for table in self.tables or ():
            nn.init.normal_(table)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict, or a file's {"model": state dict, ...} as the 2019 script saved it."""
        inner = state_dict.get("model")
        return super().load_state_dict(inner if isinstance(inner, Mapping) else state_dict, strict, assign)

    def _merge_heads(self, y: Tensor) -> Tensor:
        if self.head_layout == "correct":
            return super()._merge_heads(y)
        # (B, N, H, W, E) read as if it were (B, N, E, H, W): right for E = 1 alone.
        return y.reshape(y.shape[0], -1, *y.shape[2:4])


class SimpleSelfAttention(_SimpleSelfAttention):
    """`attnconv.SimpleSelfAttention` with the arguments of the 2019 class; loads its state dicts.

    Shapes: (B, n_in, *map) -> the same.

    Args:
        n_in: channels.
        ks: kernel of the convolution over the flattened map, odd.
        sym: a symmetric weight. The 2019 option had no effect, so its checkpoints need sym=False whatever they were
            trained with.
    """

    def __init__(self, n_in: int, ks: int = 1, sym: bool = False) -> None:
        if checks.integer("ks", ks, at_least=1) % 2 == 0:
            raise checks.InputError(f"ks must be odd, so that the map keeps its size; got {ks}")
        if sym and ks > 1:
            raise checks.InputError(f"sym=True needs ks=1, got ks={ks}")
        super().__init__(n_in, symmetric=sym)
        if ks > 1:
            self.conv = constrained_conv(n_in, n_in, ks, spectral_norm=True)

    @refuse_vmap_in_training
    def forward(self, x: Tensor) -> Tensor:
        if self.conv.kernel_size == (1,):
            return super().forward(x)
        check_map(self, x, self.channels)
        return wide_bilinear(x, self.conv.weight, self.gamma)
