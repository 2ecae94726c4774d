"""1-D convolutions under spectral norm, and what old checkpoints call their tensors.

Source: Miyato et al. 2018, arXiv:1802.05957, by torch's own parametrization. Departures from torch 1.0, with which the
layers of 2019 were trained: the vectors begin with 15 power iterations, there they are random; each forward in training
updates u before v, there v before u.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize


class Symmetric(nn.Module):
    """W -> (W + W^T) / 2 for a (C, C, 1) weight; C * C parameters all the same."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.transpose(0, 1)) / 2

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


class SpectralNorm(parametrizations._SpectralNorm):
    """torch's parametrization, which tracers follow too: the older exporter to ONNX does not know its vdot."""

    def forward(self, weight: Tensor) -> Tensor:
        if self.training or not torch.jit.is_tracing():
            return super().forward(weight)
        return weight / (self._u * torch.mv(weight.flatten(1), self._v)).sum()


class ConstrainedConv1d(nn.Conv1d):
    """A 1-D convolution with a He-normal weight, which pickle takes although torch has parametrised it.

    It has the arguments of nn.Conv1d: adapters (LoRA) make convolutions of the class that they find.
    """

    def reset_parameters(self) -> None:
        """Draw the weight anew, and with it the vectors of spectral norm, whose divisor would be the old weight's."""
        if not parametrize.is_parametrized(self):
            super().reset_parameters()  # a seed gives the weights that it gave when two draws were made
            nn.init.kaiming_normal_(self.weight)
            return
        drawn = type(self).__bases__[0](
            self.in_channels,
            self.out_channels,
            self.kernel_size[0],
            bias=self.bias is not None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        weight = drawn.weight.detach()
        with torch.no_grad():
            self.weight = weight  # through the constraints, each of which keeps it in a form of its own
            if self.bias is not None:
                self.bias.copy_(drawn.bias)
            for constraint in constraints_of(self):
                if isinstance(constraint, Symmetric):
                    weight = constraint(weight)
                elif isinstance(constraint, SpectralNorm):
                    new = SpectralNorm(weight)
                    new(weight)  # one iteration more, as torch makes it when it registers one
                    constraint.load_state_dict(new.state_dict())

    def __reduce_ex__(self, protocol: Any) -> Any:
        if "__getstate__" not in vars(type(self)):
            return super().__reduce_ex__(protocol)
        # torch gives each parametrised module a class of its own, which has no name and refuses to be pickled.
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
    """Make a convolution that keeps the length, with these constraints on its weight."""
    conv = ConstrainedConv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    if symmetric:  # first: what spectral norm divided would not be symmetric and of norm 1 at once otherwise
        parametrize.register_parametrization(conv, "weight", Symmetric())
    if spectral_norm:
        parametrize.register_parametrization(conv, "weight", SpectralNorm(conv.weight))
    conv.register_load_state_dict_pre_hook(rename_old_keys)
    return conv


def _with_properties(kind: type[nn.Module], names: list[str]) -> nn.Module:
    """Return an empty module of such a class, with a property for each of ``names``; its state is to be put in."""
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    for name in names:
        module.register_buffer(name, torch.empty(0))
        parametrize.register_parametrization(module, name, nn.Identity())
    return module


def constraints_of(conv: nn.Module) -> list[nn.Module]:
    """Return the parametrizations of its weight, in their order."""
    return list(conv.get_submodule("parametrizations.weight").children()) if parametrize.is_parametrized(conv) else []


def refuse_vmap_in_training(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Raise a clear error where torch.func.vmap would have to step the power iterations of stacked weights in place."""

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
    """Give weight_orig, weight_u, weight_v, as torch.nn.utils.spectral_norm wrote them, today's names.

    torch 1.0 and later wrote all three. Older files hold the divided weight in place of weight_v; v is then what makes
    u^T W v the divisor. Without spectral norm here the weight is folded: W / (u^T W v). In
    fastai 2 the convolution is the first of a Sequential: 0.weight_orig, and so on.
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
