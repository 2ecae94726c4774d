"""1-D convolutions under spectral norm, with the tensor names of old checkpoints.

Source: Miyato et al. 2018, arXiv:1802.05957, through torch's parametrization. Departures from torch 1.0, with which the
layers of 2019 were trained: the vectors start with 15 power iterations instead of random values, and each forward pass
in training updates u before v instead of v before u.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize


class Symmetric(nn.Module):
    """W -> (W + W^T) / 2 for a weight (C, C, 1), with C * C parameters."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.transpose(0, 1)) / 2

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


class SpectralNorm(parametrizations._SpectralNorm):
    """torch's parametrization without vdot under tracing, which the older ONNX exporter lacks."""

    def forward(self, weight: Tensor) -> Tensor:
        if self.training or not torch.jit.is_tracing():
            return super().forward(weight)
        return weight / (self._u * torch.mv(weight.flatten(1), self._v)).sum()


class ConstrainedConv1d(nn.Conv1d):
    """A 1-D convolution with a He-normal weight that pickle supports under parametrizations.

    It has the arguments of nn.Conv1d, since adapters (LoRA) make convolutions of the same class.
    """

    def reset_parameters(self) -> None:
        """Re-initialise the weight and the vectors of its spectral norm."""
        if not parametrize.is_parametrized(self):
            super().reset_parameters()  # two draws, for the same weights per seed as ever
            nn.init.kaiming_normal_(self.weight)
            return
        factory = {"device": self.weight.device, "dtype": self.weight.dtype}
        drawn = type(self).__bases__[0](
            self.in_channels, self.out_channels, self.kernel_size[0], bias=self.bias is not None, **factory
        )
        weight = drawn.weight.detach()
        with torch.no_grad():
            self.weight = weight  # through the constraints, which store it in their own form
            if self.bias is not None:
                self.bias.copy_(drawn.bias)
            for constraint in constraints_of(self):
                if isinstance(constraint, Symmetric):
                    weight = constraint(weight)
                elif isinstance(constraint, SpectralNorm):
                    new = SpectralNorm(weight)
                    new(weight)  # one more iteration, as torch does at registration
                    constraint.load_state_dict(new.state_dict())

    def __reduce_ex__(self, protocol: Any) -> Any:
        if "__getstate__" not in vars(type(self)):
            return super().__reduce_ex__(protocol)
        # torch gives each parametrised module its own class, which cannot be pickled.
        names = list(self.get_submodule("parametrizations")._modules) if parametrize.is_parametrized(self) else []
        return _with_properties, (type(self).__bases__[0], names), nn.Module.__getstate__(self)


def constrained_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    spectral_norm: bool,
    symmetric: bool = False,
    bias: bool = False,
) -> ConstrainedConv1d:
    """Make a convolution that keeps the length, with constraints on its weight."""
    conv = ConstrainedConv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    if symmetric:  # first: in the other order the weight would not have norm 1
        parametrize.register_parametrization(conv, "weight", Symmetric())
    if spectral_norm:
        parametrize.register_parametrization(conv, "weight", SpectralNorm(conv.weight))
    conv.register_load_state_dict_pre_hook(rename_old_keys)
    return conv


def _with_properties(kind: type[nn.Module], names: list[str]) -> nn.Module:
    """Return an empty module of class ``kind`` with a parametrised property per name; its state follows."""
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    for name in names:
        module.register_buffer(name, torch.empty(0))
        parametrize.register_parametrization(module, name, nn.Identity())
    return module


def constraints_of(conv: nn.Module) -> list[nn.Module]:
    """Return the parametrizations of the weight of ``conv``, in order."""
    return list(conv.get_submodule("parametrizations.weight").children()) if parametrize.is_parametrized(conv) else []


def refuse_vmap_in_training(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give a clear error where torch.func.vmap would step the power iterations of stacked weights in place."""

    @functools.wraps(forward)
    def explained(self: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
        try:
            return forward(self, x, mask)
        except RuntimeError as error:
            if "Batching rule not implemented" not in str(error):
                raise
            raise RuntimeError(
                f"vmap over stacked {type(self).__name__} weights cannot step their spectral norm: "
                "call eval() on the layers first, or make them with spectral_norm=False"
            ) from error

    return explained


def rename_old_keys(conv: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename weight_orig, weight_u, weight_v of torch.nn.utils.spectral_norm to today's names.

    torch 1.0 and later write all three. Older files have the divided weight instead of weight_v; v is then the vector
    with which u^T W v is the divisor. A convolution without spectral norm gets W / (u^T W v). In fastai 2 the
    convolution is the first module of a Sequential: 0.weight_orig and so on.
    """
    for name in [name for name in state if name.startswith(f"{prefix}0.weight")]:
        state[prefix + name.removeprefix(f"{prefix}0.")] = state.pop(name)
    if not {f"{prefix}weight_orig", f"{prefix}weight_u"} <= state.keys():
        return
    weight = state.pop(f"{prefix}weight_orig")
    matrix, u = weight.flatten(1), state.pop(f"{prefix}weight_u")
    v, divided = state.pop(f"{prefix}weight_v", None), state.pop(f"{prefix}weight", None)
    if v is None:
        v = nn.functional.normalize(matrix.mT @ u, dim=0)
        if divided is not None:
            divisor = weight.norm() / divided.norm()
            v = v * (divisor / torch.dot(u, matrix @ v))
    norm = next((i for i, p in enumerate(constraints_of(conv)) if not isinstance(p, Symmetric)), None)
    target = f"{prefix}parametrizations.weight.original" if parametrize.is_parametrized(conv) else f"{prefix}weight"
    if norm is None:
        state[target] = weight / torch.dot(u, matrix @ v)
        return
    state[target] = weight
    state[f"{prefix}parametrizations.weight.{norm}._u"] = u
    state[f"{prefix}parametrizations.weight.{norm}._v"] = v
