"""The classes of SimpleSelfAttention (2019) and of fastai, with their arguments and the names in their state dicts."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from attnconv import checks
from attnconv.compat.tensors_of import tensors_of
from attnconv.layers import SelfAttention as _SelfAttention
from attnconv.layers import SimpleSelfAttention as _SimpleSelfAttention
from attnconv.layers.self_attention import check_map
from attnconv.layers.simple_self_attention import wide_bilinear
from attnconv.layers.spectral_norm import constrained_conv, refuse_vmap_in_training


class SelfAttention(_SelfAttention):
    """`attnconv.SelfAttention` with the argument of fastai's class; loads the state dicts of both of its versions.

    Shapes: (B, n_channels, *map) -> the same.

    Args:
        n_channels: channels.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__(n_channels)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict, or a file's {"model": state dict, ...}, with or without ``module.`` before all names."""
        return super().load_state_dict(tensors_of(state_dict), strict, assign)


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

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict, or a file's {"model": state dict, ...}, with or without ``module.`` before all names."""
        return super().load_state_dict(tensors_of(state_dict), strict, assign)

    @refuse_vmap_in_training
    def forward(self, x: Tensor) -> Tensor:
        if self.conv.kernel_size == (1,):
            return super().forward(x)
        check_map(self, x, self.channels)
        return wide_bilinear(x, self.conv.weight, self.gamma)
