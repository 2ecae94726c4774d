"""Batches padded to one size: the valid part of a batch against each image alone, and masks in general."""

import contextlib
import threading

import oracles
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import attnconv
from attnconv import (
    AugmentedConv1d,
    AugmentedConv2d,
    AugmentedConv3d,
    SelfAttention,
    SimpleSelfAttention,
    compat,
    ops,
    surgery,
)
from attnconv.layers import attention_input
from attnconv.layers.attention import set_recompute
from attnconv.layers.padding import input_mask, pixels_per_cell

WIDTHS = {"key_channels": 6, "value_channels": 4, "num_heads": 2, "dtype": torch.float64}
SIZES, PADDED = [(6, 5), (9, 8), (1, 7)], (9, 8)
LAYERS = {1: AugmentedConv1d, 2: AugmentedConv2d, 3: AugmentedConv3d}

# Those of which the valid part of a padded batch is the unpadded image.
EXACT = [
    {"padding": 1},
    {"padding": 1, "position": None, "feat_size": None},
    {"padding": 1, "position": "sine", "feat_size": None},
    {"padding": 1, "position": "coordconv", "feat_size": None},
    {"padding": 1, "stride": 2},
    {"padding": 1, "stride": (2, 3), "position": "coordconv", "feat_size": None},
    {"padding": 2},
    {"padding": 3, "stride": 2},
    {"padding": 3, "stride": 2, "position": "coordconv", "feat_size": None},
    {"padding": 2, "position": "sine", "feat_size": None},
    {"kernel_size": 4, "padding": 3},
    {"kernel_size": (2, 1), "padding": 1},
    {"padding": "same", "dilation": 2},
    {"padding": 1, "qkv_kernel_size": 3},
    {"padding": 2, "qkv_kernel_size": 3},
    {"padding": 2, "qkv_kernel_size": 3, "position": "coordconv", "feat_size": None},
    {"padding": 1, "out_channels": 4},
]


def augmented(axes=2, out_channels=6, kernel_size=3, **settings):
    torch.manual_seed(0)
    layer = LAYERS[axes](4, out_channels, kernel_size, **{"feat_size": 13, **WIDTHS, **settings})
    return drawn(layer)


def drawn(layer):
    """In evaluation mode, every parameter random."""
    torch.manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return layer.eval()


def padded(sizes=SIZES, size=PADDED, channels=4, dtype=torch.float64):
    """Images at the top left of a batch of zeros, and its mask."""
    torch.manual_seed(2)
    x, mask = torch.zeros(len(sizes), channels, *size, dtype=dtype), torch.zeros(len(sizes), *size, dtype=torch.bool)
    for one, valid, image in zip(x, mask, sizes, strict=True):
        place = tuple(slice(n) for n in image)
        one[(slice(None), *place)] = torch.randn(channels, *image)
        valid[place] = True
    return x, mask


def alone(layer, x, sizes=SIZES):
    """The output for each image without padding."""
    return [layer(x[(slice(i, i + 1), slice(None), *(slice(n) for n in size))]) for i, size in enumerate(sizes)]


def assert_valid_parts(y, expected, tolerance=4e-16):
    for one, right in zip(y, expected, strict=True):
        valid = one[(slice(None), *(slice(n) for n in right.shape[2:]))]
        assert (valid - right[0]).abs().max() <= tolerance * max(1.0, right.abs().max())


def gated(kind, **settings):
    torch.manual_seed(0)
    return drawn(kind(4, **settings).double())


GATED = {
    "sagan": lambda: gated(SelfAttention),
    "simple": lambda: gated(SimpleSelfAttention),
    "simple, normalized": lambda: gated(SimpleSelfAttention, normalize=True),
    "simple, symmetric": lambda: gated(SimpleSelfAttention, symmetric=True),
    "compat sagan": lambda: gated(compat.SelfAttention),
    "compat simple": lambda: gated(compat.SimpleSelfAttention),
}
ALL = {
    **GATED,
    "sagan whole": lambda: gated(SelfAttention, value_ratio=1 / 2, pool=2),
    "augmented": lambda: augmented(padding=1),
    "pooled": lambda: augmented(padding=1, attention_pool=2),
    "pooled later": lambda: augmented(padding=1, attention_pool=2, qkv_kernel_size=3),
    "pooled coordinates": lambda: augmented(padding=1, attention_pool=2, position="coordconv"),
    "ring": lambda: augmented(padding=2, position="coordconv"),
    "cropped": lambda: augmented(padding=0),
    "compat augmented": lambda: drawn(compat.AugmentedConv(4, 6, 3, dk=4, dv=4, Nh=2, relative=True, shape=9).double()),
    "compat wide": lambda: gated(compat.SimpleSelfAttention, ks=3),
}


@pytest.mark.parametrize("settings", EXACT, ids=str)
def test_the_valid_part_of_a_padded_batch_is_the_unpadded_image(settings):
    layer = augmented(**settings)
    x, mask = padded()
    with torch.no_grad():
        assert_valid_parts(layer(x, mask=mask), alone(layer, x))
        assert (layer(x)[0] - layer(x, mask=mask)[0]).abs().max() > 1e-3  # attention saw the padding


@pytest.mark.parametrize("kind", GATED)
def test_the_valid_part_of_a_padded_map_is_the_unpadded_map(kind):
    layer, (x, mask) = GATED[kind](), padded()
    with torch.no_grad():
        assert_valid_parts(layer(x, mask=mask), alone(layer, x), tolerance=1e-15)
        x = torch.where(mask[:, None], x, 3.0)  # what stands in the padding does not matter
        assert_valid_parts(layer(x, mask=mask), alone(layer, x), tolerance=1e-15)


def test_pooled_keys_of_a_padded_map_are_maxima_over_valid_cells():
    """Sizes that are odd keep their last cells, which the unpadded image would drop."""
    layer, (x, mask) = ALL["sagan whole"](), padded()
    with torch.no_grad():
        expected = torch.from_numpy(oracles.sagan_layer(layer, x, mask))
        torch.testing.assert_close(layer(x, mask=mask), expected, rtol=1e-13, atol=1e-13)
        even = [(6, 4), (8, 8), (2, 6)]
        x, mask = padded(even)
        x = torch.where(mask[:, None], x, 3.0)
        assert_valid_parts(layer(x, mask=mask), alone(layer, x, even), tolerance=1e-14)


@pytest.mark.parametrize("axes", [1, 3])
def test_maps_of_other_numbers_of_axes(axes):
    sizes, size = [(5, 3, 2)[:axes], (7, 4, 5)[:axes]], (7, 4, 5)[:axes]
    x, mask = padded(sizes, size)
    with torch.no_grad():
        for layer in (augmented(axes, padding=2, stride=2), *(make() for make in GATED.values())):
            assert_valid_parts(layer(x, mask=mask), alone(layer, x, sizes), tolerance=1e-14)


@pytest.mark.parametrize("impl", ["eager", "blocked", "sdpa", "native"])
def test_every_kernel(impl):
    dtype = torch.float32 if impl == "native" else torch.float64
    layer = augmented(padding=2, stride=2, impl=impl).to(dtype)
    x, mask = padded(dtype=dtype)
    with torch.no_grad():
        assert_valid_parts(layer(x, mask=mask), alone(layer, x), tolerance=64 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", [name for name in ALL if name != "compat wide"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_all_true_is_no_mask_bit_by_bit(name, dtype):
    layer, x = ALL[name]().to(dtype), padded()[0].to(dtype)
    results = []
    for mask in (None, torch.ones(len(x), *x.shape[2:], dtype=torch.bool)):
        x = x.detach().requires_grad_()
        y = layer(x, mask=mask)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_the_keys_are_the_cells_whose_windows_centre_is_valid():
    mask = torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(4)) > 0.4
    x = padded([PADDED] * 2)[0]
    for settings, centres in (
        ({"padding": 1}, mask),
        ({"padding": 1, "stride": (2, 3)}, mask[:, ::2, ::3]),
        ({"padding": 0}, mask[:, 1:-1, 1:-1]),
        ({"kernel_size": (5, 2), "padding": (2, 0)}, mask[:, :, :-1]),
    ):
        layer = augmented(**settings)
        q, k, v = layer.queries_keys_values(x, mask)
        y = ops.relative_attention(q, k, v, layer.tables, mask=centres)
        expected = layer.attn_out(y.movedim(-1, 2).flatten(1, 2))
        torch.testing.assert_close(layer(x, mask=mask)[:, -4:], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("settings", [{}, {"qkv_kernel_size": 3}, {"stride": 2}], ids=str)
def test_pooled_cells_are_averages_of_valid_cells(settings):
    """Those of the unpadded image; upsampling then mixes cells beyond the border."""
    layer = augmented(padding=1, attention_pool=2, position=None, **settings)
    x, mask = padded()
    for i, (rows, columns) in enumerate(SIZES):
        found = layer.queries_keys_values(x, mask)
        for one, right in zip(found, layer.queries_keys_values(x[i : i + 1, :, :rows, :columns]), strict=True):
            valid = one[i : i + 1, :, : right.shape[2], : right.shape[3]]
            torch.testing.assert_close(valid, right, rtol=0, atol=1e-14)


def test_an_average_over_no_cell_is_zero():
    x, mask = torch.ones(1, 2, 5, 5), torch.zeros(1, 5, 5, dtype=torch.bool)
    mask[0, 0, 0] = True
    halved = attention_input.halve(x, mask)
    assert halved[0, :, 0, 0].tolist() == [1, 1]
    assert halved.sum() == 2


@pytest.mark.parametrize("name", ALL)
def test_an_image_without_valid_cells_gets_no_attention(name):
    layer, (x, mask) = ALL[name](), padded()
    x, mask[1] = x.requires_grad_(), False
    y = layer(x, mask=mask)
    kept = getattr(layer, "value_channels", 4)
    bias = layer.attn_out.bias[:, None, None] if hasattr(layer, "attn_out") else x[1]
    torch.testing.assert_close(y[1, -kept:], bias.expand_as(y[1, -kept:]), rtol=1e-15, atol=0)
    (grad,) = torch.autograd.grad(y[1, -kept:].sum(), x)
    assert torch.equal(grad[1], torch.zeros_like(x[1]) if hasattr(layer, "attn_out") else torch.ones_like(x[1]))
    assert y[0].isfinite().all()


def by_loops(x, weight, gamma, mask, *, normalize):
    """y_j = x_j + gamma * sum over valid i of x_i (x_i . W x_j)."""
    flat, valid = x.flatten(2), mask.flatten(1)
    y = flat.clone()
    for b in range(len(x)):
        for j in range(flat.shape[2]):
            for i in valid[b].nonzero()[:, 0].tolist():
                share = 1 / valid[b].sum() if normalize else 1
                y[b, :, j] += gamma * share * flat[b, :, i] * (flat[b, :, i] @ weight @ flat[b, :, j])
    return y.unflatten(2, x.shape[2:])


@pytest.mark.parametrize("order", ops.ORDERS)
@pytest.mark.parametrize("normalize", [True, False])
def test_bilinear_attention_with_a_mask_matches_the_loops(order, normalize):
    torch.manual_seed(3)
    x, weight = torch.randn(3, 4, 2, 3, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    mask = torch.tensor([[[1, 0, 1], [0, 0, 1]], [[1, 1, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]]]).bool()
    y = ops.bilinear_attention(x, weight, 0.7, mask=mask, normalize=normalize, order=order)
    torch.testing.assert_close(y, by_loops(x, weight, 0.7, mask, normalize=normalize))
    weights = ops.bilinear_weights(x, weight, query=(1, 2), mask=mask, normalize=normalize)
    at = x[..., 1, 2] + 0.7 * (x * weights[:, None]).sum((2, 3))
    torch.testing.assert_close(y[..., 1, 2], at)


@pytest.mark.parametrize("order", ops.ORDERS[1:])
def test_gradients_of_bilinear_attention_with_a_mask(order):
    torch.manual_seed(3)
    given = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 2, 2), (3, 3), (1,))]
    mask = torch.tensor([[[1, 0], [0, 1]], [[0, 0], [0, 0]]]).bool()

    def call(x, weight, gamma):
        return ops.bilinear_attention(x, weight, gamma, mask=mask, normalize=True, order=order)

    assert torch.autograd.gradcheck(call, given)
    assert torch.autograd.gradgradcheck(call, given)


@pytest.mark.parametrize("name", [name for name in ALL if name != "compat wide"])
def test_attention_weights_take_the_mask_too(name):
    layer, (x, mask) = ALL[name](), padded()
    x, mask = x[:1], mask[:1]
    size = (4, 4) if name == "sagan whole" else layer.attention_map_size(x)  # of the keys
    found = layer.attention_weights(x, mask)((2, 1))
    with attnconv.valid_sizes(SIZES[:1], PADDED):
        assert torch.equal(layer.attention_weights(x)((2, 1)), found)
    assert found.shape[-2:] == size
    outside = found[..., 3, :] if name == "sagan whole" else found[..., -1, :]  # the last row is padding in all of them
    assert not outside.any()
    if not layer.signed:
        torch.testing.assert_close(found.sum((-2, -1)), torch.ones_like(found.sum((-2, -1))))


# The context


class Net(nn.Module):
    """Patches of 4 x 4, then attention in a network of somebody's; a part of it computed again in the backward."""

    def __init__(self, again=False):
        super().__init__()
        self.again = again
        self.stem = nn.Conv2d(3, 4, 4, 4, bias=False)
        self.body = nn.Sequential(
            augmented(padding=1, out_channels=4, value_channels=2, dtype=None), SelfAttention(4), SimpleSelfAttention(4)
        )
        self.double()

    def forward(self, x):
        x = self.stem(x)
        return checkpoint(self.body, x, use_reentrant=False) if self.again else self.body(x)


def batch():
    sizes = [(24, 20), (36, 32), (8, 28)]
    return *padded(sizes, (36, 32), 3), sizes


@pytest.mark.parametrize("form", [list, torch.tensor])
def test_the_context_reaches_layers_inside_a_network(form):
    model, (x, _, sizes) = drawn(Net()), batch()
    with torch.no_grad():
        with attnconv.valid_sizes(form(sizes)):
            y = model(x)
        with attnconv.valid_sizes(form(sizes), (44, 44)):
            wider = model(F.pad(x, (0, 12, 0, 8)))
        assert_valid_parts(y, alone(model, x, sizes), tolerance=1e-13)
        assert_valid_parts(wider, alone(model, x, sizes), tolerance=1e-13)
        assert not torch.allclose(model(x), y)


@pytest.mark.parametrize("again", ["the network", "attention"])
def test_the_backward_inside_the_context(again):
    x, _, sizes = batch()
    found = []
    for repeated in (False, True):
        model = drawn(Net(again=repeated and again == "the network")).train()
        for module in model.modules():
            if parametrize.is_parametrized(module):  # the power iteration would take one step more
                module.get_submodule("parametrizations").eval()
        set_recompute(model, repeated and again == "attention")
        with attnconv.valid_sizes(sizes):
            model(x).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert any(grad.any() for grad in found[0])


def test_it_is_seen_by_other_threads_as_a_backward_on_a_gpu_is_one():
    layer, (x, mask), found = ALL["sagan"](), padded(), []
    with attnconv.valid_sizes(SIZES):
        thread = threading.Thread(target=lambda: found.append(layer(x)))
        thread.start()
        thread.join()
    assert torch.equal(found[0], layer(x, mask))


@pytest.mark.slow
def test_inside_a_detector_of_torchvision():
    detection = pytest.importorskip("torchvision").models.detection
    detector = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)
    detector, _ = surgery.add_self_attention(
        detector.eval(), after="backbone.body.13", kind="sagan", image_size=96, example=([torch.zeros(3, 96, 96)],)
    )
    layer = next(module for module in detector.modules() if isinstance(module, SelfAttention))
    nn.init.ones_(layer.gamma)
    photos, seen = [torch.rand(3, 60, 40), torch.rand(3, 50, 90)], []
    layer.register_forward_hook(lambda layer, inputs, y: seen.append((inputs[0], y)))
    padded, _ = detector.transform(photos)
    with torch.no_grad(), attnconv.valid_sizes(padded.image_sizes, padded.tensors.shape[-2:]):
        detector(photos)
        [(x, y)] = seen
        mask = torch.zeros(len(x), *x.shape[2:], dtype=torch.bool)
        for valid, size in zip(mask, padded.image_sizes, strict=True):
            valid[tuple(slice(-(-n // 32)) for n in size)] = True
        assert 0.3 < mask.float().mean() < 0.9
        assert torch.equal(y, layer.forward(x, mask))


def test_a_mask_goes_before_the_context_and_the_context_ends():
    layer, (x, mask) = ALL["sagan"](), padded()
    other = mask.roll(1, 0)
    with contextlib.suppress(ZeroDivisionError), attnconv.valid_sizes(SIZES):
        assert torch.equal(layer(x, mask=other), layer(x, other))
        with attnconv.valid_sizes([PADDED] * 3):
            assert torch.equal(layer(x), layer(x, torch.ones_like(mask)))
        assert torch.equal(layer(x), layer(x, mask))
        assert not torch.equal(layer(x), layer(x, other))
        raise ZeroDivisionError
    assert torch.equal(layer(x), layer(x, torch.ones_like(mask)))


@pytest.mark.parametrize("stages", range(5))
def test_as_many_cells_are_valid_as_the_map_of_the_image_alone_has(stages):
    """Behind convolutions of stride 2 that are padded by half their window, whatever the sizes."""
    stem = nn.Sequential(*(nn.Conv1d(1, 1, 3, 2, 1, device="meta") for _ in range(stages)))
    cells = [stem(torch.empty(1, 1, n, device="meta")).shape[2] for n in range(1, 70)]
    for size in range(1, 70):
        with attnconv.valid_sizes([[n] for n in range(1, size + 1)]):
            mask = input_mask(torch.empty(size, 1, cells[size - 1]), None, "a layer")
        assert mask.sum(1).tolist() == cells[:size]
        assert torch.equal(mask, mask.cummin(1).values)  # the first cells


@pytest.mark.parametrize(
    ("pixels", "cells", "stride"),
    [
        (768, 16, (768, 16)),
        (9, 18, (9, 18)),
        (572, 570, (572, 570)),
        (225, 15, (16, 1)),
        (31, 1, (32, 1)),
        (7, 7, (1, 1)),
    ],
)
def test_strides(pixels, cells, stride):
    assert pixels_per_cell(pixels, cells) == stride


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), r"sizes must be \(B, axes\), whole numbers from 0 on, got \[\]"),
        (([3, 4],), r"sizes must be \(B, axes\)"),
        (([(3.0, 4.0)],), r"sizes must be \(B, axes\)"),
        (([(3, -4)],), r"sizes must be \(B, axes\)"),
        (([(3, 4)], (3, 3)), r"padded_size=\(3, 3\) is smaller than the largest of sizes, \(3, 4\)"),
        (([(3, 4)], (3,)), "padded_size must be one integer or 2"),
    ],
)
def test_sizes_that_do_not_fit_get_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message), attnconv.valid_sizes(*arguments):
        pass


def test_a_batch_that_is_not_of_the_sizes_gets_a_sentence():
    layer, x = ALL["sagan"](), padded()[0]
    with attnconv.valid_sizes(SIZES):
        for other in (x[:2], x.flatten(2)):
            with pytest.raises(
                ValueError, match=r"SelfAttention: valid_sizes holds \(3, 2\) \(images, axes\), but the"
            ):
                layer(other)


@pytest.mark.parametrize("name", ["augmented", "sagan", "simple"])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([True], "mask must be a bool tensor, True where there is image; got list"),
        (torch.ones(3, 9, 8), r"mask must be a bool tensor, True where there is image; got torch\.float32"),
        (torch.ones(3, 8, 9, dtype=torch.bool), r"mask must be \(batch, \*map\), \(3, 9, 8\); got \(3, 8, 9\)"),
        (torch.ones(3, 9, 8, dtype=torch.bool, device="meta"), "mask must be on the device of its input, got meta"),
    ],
)
def test_masks_that_do_not_fit_get_a_sentence(name, mask, message):
    with pytest.raises(ValueError, match=f"Attention: {message}" if name != "augmented" else message):
        ALL[name]()(padded()[0], mask=mask)


@pytest.mark.parametrize("name", ["augmented", "pooled", "ring", "sagan", "simple"])
def test_compile_in_one_graph(name):
    torch.compiler.reset()
    layer, (x, mask) = ALL[name](), padded()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(compiled(x, mask=mask), layer(x, mask=mask))
    for sizes in (SIZES, [(4, 8), (9, 2), (5, 5)]):
        with attnconv.valid_sizes(sizes, PADDED):
            leaf, twin = x.clone().requires_grad_(), x.clone().requires_grad_()
            compiled(leaf).square().sum().backward()
            layer(twin).square().sum().backward()
            torch.testing.assert_close(leaf.grad, twin.grad)
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("name", ["augmented", "ring", "sagan", "sagan whole", "simple"])
def test_export_with_a_mask(name):
    layer, (x, mask) = ALL[name](), padded()
    program = torch.export.export(layer, (x, mask))
    torch.testing.assert_close(program.module()(x, mask), layer(x, mask))
