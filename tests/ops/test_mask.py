"""Masked keys, and keys with a map of their own, in every kernel: against loops, torch's own attention, and padding."""

import io
import math

import oracles
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.func import grad, vmap
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attnconv import ops

KERNELS = ["eager", "blocked", "sdpa", "native"]  # "triton": triton_interpreted.py and test_gpu.py
FUSED = ["blocked", "native"]  # those of them that are operators of their own
DTYPES = {"native": torch.float32}  # of tests against exact numbers, where it is not float64
MAPS = [(7,), (3, 5), (1, 4), (2, 3, 4)]
OWN = [((3, 5), (2, 4)), ((3, 5), (9,)), ((6,), (2, 3, 2)), ((2, 3, 2), (1, 1)), ((5, 3), (3, 5))]


def inputs(map_size, *, key_map=None, d=4, e=3, batch=3, tables=True, impl=None):
    """q, k, v and a table for each axis."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DTYPES.get(impl, torch.float64))

    q, k, v = draw(batch, 2, *map_size, d), *(draw(batch, 2, *(key_map or map_size), n) for n in (d, e))
    return q, k, v, [draw(2 * n - 1, d) for n in map_size] if tables else None


def mask_of(k, seed=0):
    """About half of the keys; the first image, if there are several, has a single one."""
    mask = torch.rand(k.shape[0], *k.shape[2:-1], generator=torch.Generator().manual_seed(seed)) > 0.5
    mask[0] = False
    mask.flatten(1)[:, -1] = True
    return mask


def close(found, expected):
    """Up to some roundings of the largest number."""
    tolerance = 64 * torch.finfo(found.dtype).eps * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance)


def results(impl, q, k, v, rel, mask, *, scale=0.4):
    """The output, and the gradients of q, k, v and the tables."""
    arguments = [t.detach().clone().requires_grad_() for t in (q, k, v, *(rel or ()))]
    y = ops.relative_attention(*arguments[:3], arguments[3:] or None, mask=mask, scale=scale, impl=impl)
    upper = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, arguments, upper)]


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("tables", [True, False])
def test_matches_the_loops(impl, map_size, tables):
    q, k, v, rel = inputs(map_size, tables=tables, impl=impl)
    y = ops.relative_attention(q, k, v, rel, mask=mask_of(k), scale=0.4, impl=impl)
    assert y.dtype == q.dtype
    close(y, torch.from_numpy(oracles.relative_attention(q, k, v, rel, scale=0.4, mask=mask_of(k))))


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("map_size", "key_map"), OWN)
@pytest.mark.parametrize("masked", [True, False])
def test_keys_with_a_map_of_their_own_match_the_loops(impl, map_size, key_map, masked):
    q, k, v, _ = inputs(map_size, key_map=key_map, tables=False, impl=impl)
    mask = mask_of(k) if masked else None
    y = ops.relative_attention(q, k, v, None, mask=mask, scale=0.4, impl=impl)
    assert y.shape == (*q.shape[:-1], v.shape[-1])
    close(y, torch.from_numpy(oracles.relative_attention(q, k, v, None, scale=0.4, mask=mask)))


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("map_size", "key_map"), OWN)
@pytest.mark.parametrize("masked", [True, False])
def test_outputs_and_gradients_are_those_of_torch_without_tables(impl, map_size, key_map, masked):
    q, k, v, _ = inputs(map_size, key_map=key_map, tables=False, impl=impl)
    mask = mask_of(k) if masked else None
    found = results(impl, q, k, v, None, mask)
    leaves = [t.double().flatten(2, -2).requires_grad_() for t in (q, k, v)]
    seen = None if mask is None else mask.flatten(1)[:, None, None].expand(-1, 2, math.prod(map_size), -1)
    expected = F.scaled_dot_product_attention(*leaves, attn_mask=seen, scale=0.4)
    upper = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).reshape(expected.shape)
    for one, other in zip(found, (expected, *torch.autograd.grad(expected, leaves, upper)), strict=True):
        close(one.flatten(2, -2), other.detach())


@pytest.mark.parametrize("impl", [impl for impl in KERNELS if impl != "eager"])
@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("tables", [True, False])
def test_gradients_are_those_of_the_eager_form(impl, map_size, tables):
    q, k, v, rel = given = inputs(map_size, tables=tables, impl=impl)
    exact = [t.double() for t in (q, k, v)], [t.double() for t in rel] if tables else None
    expected = results("eager", *exact[0], exact[1], mask_of(k))
    for found, right in zip(results(impl, *given, mask_of(k)), expected, strict=True):
        close(found, right)


@pytest.mark.parametrize("block", [1, 7, 60])
@pytest.mark.parametrize(("map_size", "key_map"), [((3, 5), None), ((3, 5), (2, 4)), ((2, 3), (3, 5))])
def test_blocks_of_all_sizes(block, map_size, key_map, monkeypatch):
    from attnconv.kernels.relative_attention import blocked

    for name in ("FORWARD_LOGITS", "BACKWARD_LOGITS"):
        monkeypatch.setattr(blocked, name, block)
    q, k, v, rel = inputs(map_size, key_map=key_map, tables=key_map is None)
    for found, right in zip(*(results(impl, q, k, v, rel, mask_of(k)) for impl in ("blocked", "eager")), strict=True):
        close(found, right)


@pytest.mark.parametrize("impl", [impl for impl in KERNELS if impl not in DTYPES])
@pytest.mark.parametrize("tables", [True, False])
def test_gradcheck(impl, tables):
    q, k, v, rel = inputs((2, 3), d=2, e=2, batch=2, tables=tables)
    mask = mask_of(k)
    mask[0] = False  # the image without valid keys too
    arguments = [t.requires_grad_() for t in (q, k, v, *(rel or ()))]
    call = lambda q, k, v, *rel: ops.relative_attention(q, k, v, rel or None, mask=mask, impl=impl)  # noqa: E731
    assert torch.autograd.gradcheck(call, arguments)


def test_the_eager_form_is_twice_differentiable():
    q, k, v, rel = inputs((2, 2), d=1, e=1, batch=2)
    mask = mask_of(k)
    mask[0] = False
    arguments = [t.requires_grad_() for t in (q, k, v, *rel)]
    call = lambda q, k, v, *rel: ops.relative_attention(q, k, v, rel, mask=mask, impl="eager")  # noqa: E731
    assert torch.autograd.gradgradcheck(call, arguments)


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tables", [True, False])
def test_all_true_is_no_mask_bit_by_bit(impl, dtype, tables):
    q, k, v, rel = inputs((6, 7), tables=tables)
    given = *(t.to(dtype) for t in (q, k, v)), [t.to(dtype) for t in rel] if tables else None
    everything = torch.ones(3, 6, 7, dtype=torch.bool)
    for one, other in zip(results(impl, *given, everything), results(impl, *given, None), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(("map_size", "key_map"), [((3, 5), None), ((3, 5), (2, 4))])
def test_an_image_without_valid_keys_gives_nothing_and_leaves_the_others_alone(impl, map_size, key_map):
    q, k, v, rel = given = inputs(map_size, key_map=key_map, tables=key_map is None, impl=impl)
    mask = mask_of(k)
    mask[1] = False
    with torch.autograd.detect_anomaly():
        found = results(impl, *given, mask)
    for t in found[:4]:  # y and the gradients of q, k and v
        assert not t[1].any()
        assert t[[0, 2]].any()
    others = [t[[0, 2]] for t in (q, k, v)]
    upper = torch.linspace(-1, 1, found[0].numel(), dtype=torch.float64).reshape(found[0].shape)[[0, 2]]
    leaves = [t.double().requires_grad_() for t in (*others, *(rel or ()))]
    y = ops.relative_attention(*leaves[:3], leaves[3:] or None, mask=mask[[0, 2]], scale=0.4, impl="eager")
    expected = [y.detach(), *torch.autograd.grad(y, leaves, upper)]
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        close(one[[0, 2]] if place < 4 else one, other)


@pytest.mark.parametrize("impl", KERNELS)
def test_masked_keys_get_no_gradient_and_do_not_matter_however_large(impl):
    q, k, v, rel = inputs((3, 5), impl=impl)
    mask = mask_of(k)
    hidden = ~mask[:, None, ..., None].expand(k.shape)
    first = results(impl, q, k, v, rel, mask)
    assert not first[2][hidden].any()
    assert not first[3][hidden[..., : v.shape[-1]]].any()
    louder = torch.where(hidden, 1e3 * k.sign(), k)  # their logits pass those of valid keys by more than exp holds
    for one, other in zip(first, results(impl, q, louder, v, rel, mask), strict=True):
        close(one, other)


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("tables", [True, False])
def test_the_valid_part_of_a_padded_batch_is_that_of_the_unpadded_images(impl, tables):
    sizes, largest = [(3, 5), (4, 2), (1, 1)], (4, 5)
    q, k, v, rel = inputs(largest, tables=tables, impl=impl)
    mask = torch.zeros(3, *largest, dtype=torch.bool)
    for image, (rows, columns) in enumerate(sizes):
        mask[image, :rows, :columns] = True
    q, k, v = (torch.where(mask[:, None, ..., None], t, 0) for t in (q, k, v))
    y = ops.relative_attention(q, k, v, rel, mask=mask, impl=impl)
    for image, (rows, columns) in enumerate(sizes):
        valid = slice(image, image + 1), slice(None), slice(rows), slice(columns)
        close(y[valid], ops.relative_attention(q[valid], k[valid], v[valid], rel, impl="eager"))


def test_auto_runs_what_it_is_given_and_half_precision_errs_no_more_than_eager():
    q, k, v, rel = inputs((12, 9), d=16)
    half = *(t.bfloat16() for t in (q, k, v)), [t.bfloat16() for t in rel]
    exact = ops.relative_attention(
        *(t.double() for t in half[:3]), [t.double() for t in half[3]], mask=mask_of(k), impl="eager"
    )
    y = ops.relative_attention(*half, mask=mask_of(k))
    assert y.dtype == torch.bfloat16
    assert (y.double() - exact).abs().max() <= 2**-8 * exact.abs().max()


@pytest.mark.parametrize("impl", FUSED)
def test_the_output_merges_into_channels_last_without_a_copy(impl):
    q, k, v, rel = inputs((3, 5), impl=impl)
    y = ops.relative_attention(q, k, v, rel, mask=mask_of(k), impl=impl)
    assert y.movedim(-1, 2).flatten(1, 2).data_ptr() == y.data_ptr()


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("key_map", [None, (2, 5)])
def test_opcheck(impl, key_map):
    q, k, v, rel = inputs((3, 4), key_map=key_map, tables=key_map is None, impl=impl)
    mask = mask_of(k)
    forward = getattr(torch.ops.attnconv, f"{impl}_attention")
    out, lse = forward(q, k, v, rel or [], mask, 0.4)
    backward = getattr(torch.ops.attnconv, f"{impl}_attention_backward").default
    torch.library.opcheck(backward, (torch.ones_like(out), q, k, v, rel or [], mask, out, lse, 0.4))
    leaves = *(t.requires_grad_() for t in (q, k, v)), [t.requires_grad_() for t in rel or ()]
    torch.library.opcheck(forward.default, (*leaves, mask, 0.4))


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("what", ["mask", "inputs", "both"])
def test_vmap(impl, what):
    q, k, v, rel = inputs((3, 4), impl=impl)
    masks = torch.stack([mask_of(k), mask_of(k, seed=1)])
    queries = torch.stack([q, q.flip(0)])
    in_dims = {"mask": (None, 0), "inputs": (0, None), "both": (0, 0)}[what]
    given = [t if d == 0 else t[0] for t, d in zip((queries, masks), in_dims, strict=True)]
    call = lambda q, mask: ops.relative_attention(q, k, v, rel, mask=mask, impl=impl)  # noqa: E731
    y = vmap(call, in_dims=in_dims)(*given)
    for at in range(2):
        chosen = [t[at] if d == 0 else t for t, d in zip(given, in_dims, strict=True)]
        close(y[at], call(*chosen))


def test_torch_func_takes_the_eager_form():
    q, k, v, rel = inputs((12, 12))
    call = lambda q: ops.relative_attention(q, k, v, rel, mask=mask_of(k), scale=0.4).sum()  # noqa: E731
    arguments = q.clone().requires_grad_()
    (expected,) = torch.autograd.grad(call(arguments), arguments)
    torch.testing.assert_close(grad(call)(q), expected)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize(("map_size", "key_map"), [((3, 5), None), ((3, 5), (2, 4))])
def test_flops_are_those_of_all_pairs(impl, map_size, key_map):
    given = inputs(map_size, key_map=key_map, tables=key_map is None, impl=impl)
    counts = []
    for name, mask in ((impl, mask_of(given[1])), (impl, None), ("eager", None)):
        with FlopCounterMode(display=False) as counter:
            results(name, *given, mask)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
    pairs, terms = 3 * 2 * 15 * math.prod(key_map or map_size), 3 * 2 * 15 * 8 * (key_map is None)
    assert counts[0] == 2 * (4 * 4 * (pairs + terms) + 3 * 3 * pairs)
    assert counts[2] == 2 * (3 * 4 * (pairs + terms) + 3 * 3 * pairs)  # eager has kept its logits


class Masked(nn.Module):
    """The op as a layer makes it of a map and its mask; with ``stride`` 2 keys are those of a pooled map."""

    def __init__(self, impl, stride=1):
        super().__init__()
        self.impl, self.stride = impl, stride
        self.rel = nn.ParameterList(torch.randn(17, 4, generator=torch.Generator().manual_seed(a)) for a in (0, 1))

    def forward(self, x, mask):
        if self.stride == 1:
            return ops.relative_attention(x, x, x, tuple(self.rel), mask=mask, impl=self.impl)
        keys, mask = F.max_pool3d(x, (2, 2, 1)), F.max_pool2d(mask.float(), 2) > 0
        return ops.relative_attention(x, keys, keys, None, mask=mask, impl=self.impl)


def features(batch, rows, columns):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(batch, 2, rows, columns, 4, generator=generator)
    return x, torch.rand(batch, rows, columns, generator=generator) > 0.4


@pytest.mark.parametrize(
    ("impl", "dynamic"),
    [(impl, None) for impl in ("auto", *KERNELS)]
    # Not "sdpa": torch mistakes the layout of its fused attention's gradients on maps of any size.
    + [pytest.param(impl, True, marks=pytest.mark.slow) for impl in ("auto", *KERNELS) if impl != "sdpa"],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_compile_in_one_graph_forward_and_backward(impl, dynamic, stride):
    torch.compiler.reset()
    module = Masked(impl, stride)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in ((2, 9, 8), (3, 6, 7) if dynamic else (3, 9, 8)):
        x, mask = features(*size)
        first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
        compiled(first, mask).square().sum().backward()
        module(second, mask).square().sum().backward()
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", ["auto", "sdpa", "eager"])
@pytest.mark.parametrize("stride", [1, 2])
def test_export_with_dynamic_batch_and_map(impl, stride):
    module = Masked(impl, stride)
    names = {0: Dim("batch", min=1, max=16)} | {a: Dim(f"axis{a}", min=4, max=9) for a in (1, 2)}
    of_x = {0: names[0], 2: names[1], 3: names[2]}
    program = torch.export.export(module, features(2, 5, 6), dynamic_shapes=(of_x, names))
    if impl != "eager":
        fused = [n for n in program.graph.nodes if "scaled_dot_product_attention" in str(n.target)]
        assert len(fused) == 1
    for size in ((1, 9, 4), (5, 6, 7)):
        given = features(*size)
        given[1][0] = False
        torch.testing.assert_close(program.module()(*given), module(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", ["auto", "sdpa"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.slow
def test_export_to_onnx(impl, stride):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, given = Masked(impl, stride), features(2, 5, 6)
    given[1][0] = False
    program = torch.onnx.export(module, given, dynamo=True, verbose=False)
    file = io.BytesIO()
    program.save(file)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    (y,) = session.run(None, dict(zip(names, (t.numpy() for t in given), strict=True)))
    torch.testing.assert_close(torch.from_numpy(y), module(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", FUSED)
def test_meta_tensors_give_the_shape(impl):
    q, k, v, _ = (None if t is None else t.to("meta") for t in inputs((3, 4), key_map=(2, 2), tables=False))
    mask = torch.ones(3, 2, 2, dtype=torch.bool, device="meta")
    assert ops.relative_attention(q, k, v, None, mask=mask, impl=impl).shape == (3, 2, 3, 4, 3)


def test_an_empty_batch():
    for impl in KERNELS:
        q, k, v, rel = inputs((3, 4), batch=0, impl=impl)
        y = ops.relative_attention(q, k, v, rel, mask=torch.ones(0, 3, 4, dtype=torch.bool), impl=impl)
        assert y.shape == v.shape


def change(**replaced):
    q, k, v, _ = inputs((3, 4), key_map=(2, 5), tables=False)
    return {"q": q, "k": k, "v": v, "rel": None, **replaced}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            change(rel=[torch.ones(5, 4).double(), None]),
            r"with tables k must have the shape of q, got k \(3, 2, 2, 5, 4\)",
        ),
        (change(k=torch.ones(3, 2, 4).double()), "k must have the batch, heads and channels of q and a map of 1, 2 or"),
        (change(k=torch.ones(2, 2, 2, 5, 4).double()), r"k must have the batch, .* got k \(2, 2, 2, 5, 4\) and q"),
        (change(k=torch.ones(3, 2, 2, 5, 3).double()), r"k must have the batch, .* got k \(3, 2, 2, 5, 3\) and q"),
        (change(k=torch.ones(3, 2, 2, 0, 4).double()), "q and k must both have positions"),
        (change(v=torch.ones(3, 2, 3, 4, 3).double()), "v must have the shape of k but for the last axis"),
        (change(mask=[True]), "mask must be a bool tensor, True where a key may be attended to; got list"),
        (change(mask=torch.ones(3, 2, 5)), r"mask must be a bool tensor, .*; got torch\.float32"),
        (
            change(mask=torch.ones(3, 3, 4, dtype=torch.bool)),
            r"mask must be \(batch, \*key map\), \(3, 2, 5\); got \(3, 3, 4\)",
        ),
        (
            change(mask=torch.ones(3, 2, 5, dtype=torch.bool, device="meta")),
            "mask must be on the device of q, got meta and cpu",
        ),
    ],
)
def test_bad_input_gets_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.relative_attention(**arguments)
