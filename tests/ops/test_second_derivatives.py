"""Derivatives of gradients through the fused kernels, as gradient penalties and Hessian products need them."""

import pytest
import torch
from torch.autograd import gradgradcheck

from attnconv import AugmentedConv1d, AugmentedConv2d, AugmentedConv3d, SelfAttention, ops
from attnconv.kernels.relative_attention import eager

MAPS = [(5,), (3, 4), (2, 1, 3)]


def inputs(map_size, *, tables=True, key_map=None, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    keys = key_map or map_size
    q, k, v = draw(2, 2, *map_size, 3), draw(2, 2, *keys, 3), draw(2, 2, *keys, 2)
    return [q, k, v, *([draw(2 * n - 1, 3) for n in map_size] if tables else [])]


def some_keys(map_size):
    mask = torch.rand(2, *map_size, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[0].view(-1)[0] = True
    mask[1] = False  # an image without a key
    return mask


@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_the_backward_of_blocked_is_differentiable(map_size, tables, masked):
    mask = some_keys(map_size) if masked else None

    def attention(q, k, v, *rel):
        return ops.relative_attention(q, k, v, rel or None, mask=mask, impl="blocked")

    assert gradgradcheck(attention, inputs(map_size, tables=tables))


@pytest.mark.parametrize("wanted", range(5))
def test_only_what_is_asked_for_is_differentiated(wanted):
    arguments = inputs((3, 4))
    for i, t in enumerate(arguments):
        t.requires_grad_(i == wanted)
    assert gradgradcheck(lambda q, k, v, *rel: ops.relative_attention(q, k, v, rel, impl="blocked"), arguments)


def penalty_gradients(impl, arguments, mask, dtype=torch.float32):
    """Return the gradients of |d sum(y^2) / d(q, k, v)|^2 with respect to all arguments."""
    arguments = [t.detach().to(dtype).requires_grad_() for t in arguments]
    q, k, v, *rel = arguments
    y = ops.relative_attention(q, k, v, rel or None, mask=mask, impl=impl)
    first = torch.autograd.grad(y.square().sum(), (q, k, v), create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), arguments)


@pytest.mark.parametrize("impl", ["native", "auto"])
@pytest.mark.parametrize(("map_size", "key_map"), [((33,), None), ((9, 11), None), ((3, 4, 5), None), ((8, 8), (4, 3))])
@pytest.mark.parametrize("masked", [True, False])
def test_native_and_auto_have_those_of_eager(impl, map_size, key_map, masked):
    arguments = inputs(map_size, tables=key_map is None, key_map=key_map)
    mask = some_keys(key_map or map_size) if masked else None
    expected = penalty_gradients("eager", arguments, mask, torch.float64)
    for found, exact in zip(penalty_gradients(impl, arguments, mask), expected, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("impl", ["blocked", "native"])
def test_inputs_that_are_made_from_each_other_get_their_own_gradients(impl):
    def gradient(impl, create_graph):
        x = torch.linspace(-1, 1, 2 * 2 * 12 * 3).reshape(2, 2, 3, 4, 3).requires_grad_()
        y = ops.relative_attention(x, 2 * x, x.sin(), None, impl=impl).square().sum()
        return torch.autograd.grad(y, x, create_graph=create_graph)[0]

    torch.testing.assert_close(gradient(impl, True), gradient("eager", False))


@pytest.mark.parametrize("impl", ["blocked", "native"])
def test_gradients_in_batches(impl):
    arguments = inputs((3, 4), dtype=torch.float32)

    def gradients(impl):
        y = ops.relative_attention(*arguments[:3], arguments[3:], impl=impl)
        directions = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(2))
        return torch.autograd.grad(y, arguments, directions, is_grads_batched=True)

    for found, expected in zip(gradients(impl), gradients("eager"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_under_autocast():
    arguments = inputs((3, 4), dtype=torch.float32)

    def gradient(impl):
        with torch.autocast("cpu", torch.bfloat16):
            y = ops.relative_attention(*arguments[:3], arguments[3:], impl=impl).float().square().sum()
            (first,) = torch.autograd.grad(y, arguments[0], create_graph=True)
        return torch.autograd.grad(first.square().sum(), arguments[1])[0]

    torch.testing.assert_close(gradient("native"), gradient("eager"), rtol=0.02, atol=0.02)


def test_the_plain_form_runs_in_a_backward_that_is_differentiated_and_in_no_other(monkeypatch):
    calls = []
    plain = eager.forward
    monkeypatch.setattr(eager, "forward", lambda *arguments: calls.append(1) or plain(*arguments))
    arguments = inputs((9, 9), dtype=torch.float32)
    y = ops.relative_attention(*arguments[:3], arguments[3:], impl="native")
    torch.autograd.grad(y.sum(), arguments, retain_graph=True)
    assert calls == []
    torch.autograd.grad(y.sum(), arguments, create_graph=True)
    assert calls == [1]


@pytest.mark.parametrize(
    ("layer", "map_size"),
    [
        (SelfAttention(16), (16, 16)),
        (SelfAttention(16), (4, 5, 6)),
        (SelfAttention(16, value_ratio=1 / 2, pool=2), (16, 16)),
        (SelfAttention(16, value_ratio=1 / 2, pool=2), (4, 5, 6)),
        (AugmentedConv1d(4, 8, 3, padding=1, key_channels=8, value_channels=4, num_heads=2, feat_size=80), (80,)),
        (AugmentedConv2d(4, 8, 3, padding=1, key_channels=8, value_channels=4, num_heads=2, feat_size=16), (16, 12)),
        (AugmentedConv3d(4, 8, 3, padding=1, key_channels=8, value_channels=4, num_heads=2, feat_size=5), (4, 5, 5)),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, torch.nn.Module) else "x".join(map(str, x)),
)
def test_a_gradient_penalty_trains_every_parameter(layer, map_size):
    torch.manual_seed(0)
    if hasattr(layer, "gamma"):
        torch.nn.init.ones_(layer.gamma)
    channels = getattr(layer, "channels", 4)
    x = torch.randn(2, channels, *map_size, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    (slope.flatten(1).norm(dim=1) - 1).square().mean().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name.endswith("bias"), name


def test_compiled_graphs_say_that_they_have_none():
    arguments = inputs((9, 9), dtype=torch.float32)
    compiled = torch.compile(lambda q, k, v, *rel: ops.relative_attention(q, k, v, rel).square(), backend="aot_eager")
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(
            torch.autograd.grad(compiled(*arguments).sum(), arguments[0], create_graph=True)[0].sum(), arguments[0]
        )
