"""impl="blocked": exact, linear in memory, and a good citizen of torch."""

import copy

import oracles
import pytest
import torch
from torch.autograd import DeviceType
from torch.func import functional_call, grad, vmap
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from attnconv import AugmentedConv2d, ops
from attnconv.kernels.relative_attention import blocked

MAPS = [(5,), (3, 5), (5, 3), (1, 4), (7, 1), (2, 3, 4)]


def inputs(map_size, *, d=3, e=2, batch=2, heads=3, dtype=torch.float64, tables=True):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    q, k, v = (draw(batch, heads, *map_size, width) for width in (d, d, e))
    return q, k, v, [draw(2 * n - 1, d) for n in map_size] if tables else None


@pytest.fixture(params=[1, 7, 60, 2**19], ids=lambda size: f"blocks of {size}")
def block_logits(request, monkeypatch):
    """From a single query a block, over parts of a row and some heads, to everything at once."""
    for name in ("FORWARD_LOGITS", "BACKWARD_LOGITS"):
        monkeypatch.setattr(blocked, name, request.param)


@pytest.mark.usefixtures("block_logits")
@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("tables", [True, False])
def test_matches_the_loops(map_size, tables):
    q, k, v, rel = inputs(map_size, tables=tables)
    y = ops.relative_attention(q, k, v, rel, scale=0.4, impl="blocked")
    torch.testing.assert_close(y, torch.from_numpy(oracles.relative_attention(q, k, v, rel, scale=0.4)))


def gradients(impl, q, k, v, rel, scale=0.4):
    arguments = [t.clone().requires_grad_() for t in (q, k, v, *(rel or ()))]
    y = ops.relative_attention(*arguments[:3], arguments[3:] or None, scale=scale, impl=impl)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    return torch.autograd.grad((y * weights).sum(), arguments)


@pytest.mark.usefixtures("block_logits")
@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("tables", [True, False])
def test_gradients_are_those_of_the_eager_form(map_size, tables):
    given = inputs(map_size, tables=tables)
    torch.testing.assert_close(gradients("blocked", *given), gradients("eager", *given))


def test_images_share_a_block_and_the_last_block_may_hold_fewer(monkeypatch):
    two = 2 * 3 * 15**2  # two images of three heads
    for name in ("FORWARD_LOGITS", "BACKWARD_LOGITS"):
        monkeypatch.setattr(blocked, name, two)
    given = inputs((3, 5), batch=5)
    assert [group[0] for group, _ in blocked._groups(*given[:2], two)] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    torch.testing.assert_close(gradients("blocked", *given), gradients("eager", *given))


def test_gradcheck():
    q, k, v, rel = inputs((2, 3), batch=1, heads=2)
    arguments = [t.requires_grad_() for t in (q, k, v, *rel)]
    call = lambda q, k, v, *rel: ops.relative_attention(q, k, v, rel, impl="blocked")  # noqa: E731
    assert torch.autograd.gradcheck(call, arguments)


def test_the_output_merges_into_channels_last_without_a_copy():
    q, k, v, rel = inputs((3, 5))
    y = ops.relative_attention(q, k, v, rel, impl="blocked")
    merged = y.movedim(-1, 2).flatten(1, 2)
    assert merged.is_contiguous(memory_format=torch.channels_last)
    assert merged.data_ptr() == y.data_ptr()


@pytest.mark.parametrize("tables", [True, False])
def test_opcheck(tables):
    q, k, v, rel = inputs((3, 4), tables=tables)
    arguments = tuple(t.requires_grad_() for t in (q, k, v)), [t.requires_grad_() for t in rel or ()]
    torch.library.opcheck(torch.ops.attnconv.blocked_attention.default, (*arguments[0], arguments[1], None, 0.4))


def test_opcheck_of_the_backward():
    q, k, v, rel = inputs((3, 4))
    out, lse = torch.ops.attnconv.blocked_attention(q, k, v, rel, None, 0.4)
    arguments = (torch.ones_like(out), q, k, v, rel, None, out, lse, 0.4)
    torch.library.opcheck(torch.ops.attnconv.blocked_attention_backward.default, arguments)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4)], ids=["batch", "heads", "map"])
def test_without_elements(shape):
    given = [torch.zeros(*shape, d, requires_grad=True) for d in (3, 3, 2)]
    y = ops.relative_attention(*given, None, impl="blocked")
    y.sum().backward()
    assert y.shape == (*shape, 2)
    assert [t.grad.shape for t in given] == [t.shape for t in given]


def test_the_output_may_be_changed_in_place():
    q, k, v, rel = inputs((3, 4))
    y = ops.relative_attention(q.requires_grad_(), k, v, rel, impl="blocked")
    expected = y.detach().clone().relu()
    assert torch.equal(y.relu_(), expected)


def layer(impl="blocked"):
    torch.manual_seed(0)
    return AugmentedConv2d(
        4, 10, 3, padding=1, key_channels=6, value_channels=4, num_heads=2, feat_size=9, impl=impl
    )  # fmt: skip


IMAGE = torch.randn(3, 4, 7, 5, generator=torch.Generator().manual_seed(1))


def test_the_layer_agrees_with_its_eager_form():
    torch.testing.assert_close(layer()(IMAGE), layer("eager")(IMAGE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_in_one_graph_forward_and_backward(dynamic):
    torch.compiler.reset()
    plain, twin = layer(), layer()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager", dynamic=dynamic or None)
    for images in (IMAGE, IMAGE[:2]):
        compiled(images).square().mean().backward()
        plain(images).square().mean().backward()
    for one, other in zip(twin.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_export_is_refused_and_names_the_form_that_can():
    with pytest.raises(Exception, match="impl='blocked' cannot be traced or exported; impl='sdpa' and"):
        torch.export.export(layer(), (IMAGE,))


def test_autocast_takes_its_dtype():
    q, k, v, rel = inputs((5, 7), d=16, e=4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.relative_attention(q, k, v, rel, impl="blocked")
    rounded = [t.bfloat16() for t in (q, k, v, *rel)]
    assert torch.equal(y, ops.relative_attention(*rounded[:3], rounded[3:], impl="blocked"))
    assert y.dtype == torch.bfloat16


def test_checkpointing():
    module = layer()
    module(IMAGE).square().mean().backward()
    again = copy.deepcopy(module)
    again.zero_grad()
    checkpoint(again, IMAGE, use_reentrant=False).square().mean().backward()
    for one, other in zip(module.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_forward_mode_is_refused_and_not_answered_with_zeros(index):
    q, k, v, rel = inputs((2, 3))
    arguments = [q, k, v, *rel]

    def call(moved):
        given = [moved if i == index else t for i, t in enumerate(arguments)]
        return ops.relative_attention(*given[:3], given[3:], impl="blocked")

    with pytest.raises(RuntimeError, match="has no forward-mode derivative; impl='eager' has one"):
        torch.func.jvp(call, (arguments[index],), (torch.ones_like(arguments[index]),))


def test_torch_func_gradients_are_refused_and_name_the_form_that_has_them():
    module = layer()
    parameters = dict(module.named_parameters())
    with pytest.raises(
        RuntimeError, match=r"torch\.func cannot differentiate impl='blocked'; with impl='eager' it can"
    ):
        grad(lambda parameters: functional_call(module, parameters, (IMAGE,)).sum())(parameters)


def test_vmap_over_the_batch():
    module = layer()
    torch.testing.assert_close(
        vmap(lambda image: module(image[None]))(IMAGE)[:, 0], module(IMAGE), rtol=1e-4, atol=1e-5
    )


def test_vmap_over_stacked_tables():
    q, k, v, rel = inputs((3, 4))
    stacked = [torch.stack([t, t.flip(0)]) for t in rel]
    together = vmap(lambda *tables: ops.relative_attention(q, k, v, tables, impl="blocked"))(*stacked)
    torch.testing.assert_close(together[1], ops.relative_attention(q, k, v, [t.flip(0) for t in rel]))


@pytest.mark.parametrize("tables", [True, False])
def test_flops_are_counted(tables):
    q, k, v, rel = inputs((3, 5), tables=tables)
    counts = []
    for impl in ("eager", "blocked"):
        with FlopCounterMode(display=False) as counter:
            ops.relative_attention(q, k, v, rel, impl=impl)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    with FlopCounterMode(display=False) as counter:
        gradients("blocked", q, k, v, rel)
    pairs, terms = 2 * 3 * 15 * 15, 2 * 3 * 15 * 8 * tables
    assert counter.get_total_flops() == counts[1] + 2 * (3 * 3 * (pairs + terms) + 2 * 2 * pairs)


def test_meta_tensors_give_the_shape():
    q, k, v, rel = inputs((3, 4))
    y = ops.relative_attention(q.to("meta"), k.to("meta"), v.to("meta"), [r.to("meta") for r in rel], impl="blocked")
    assert y.shape == v.shape


def peak_bytes(call):
    """The largest sum of CPU memory that was held at once while ``call`` ran, above what was held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = call()
    held = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU:
            held += event.nbytes()
            peak = max(peak, held)
    del kept
    return peak


def training_step(impl, map_size):
    given = inputs(map_size, d=20, e=2, batch=1, heads=8, dtype=torch.float32)
    outside = 4 * (sum(t.numel() for t in given[:3]) + given[2].numel() + sum(t.numel() for t in given[3]))
    return peak_bytes(lambda: gradients(impl, *given)) - outside - 2 * 4 * given[2].numel()


def test_memory_grows_with_the_positions_and_not_with_their_square():
    small, large = (training_step("blocked", (n, n)) for n in (32, 64))
    assert large < 6 * small  # four times the positions
    assert training_step("eager", (32, 32)) > 4 * small


def test_memory_of_a_large_map_stays_under_32_mb_above_inputs_outputs_and_gradients():
    assert training_step("blocked", (64, 64)) < 32e6


def test_the_number_of_threads_is_left_alone():
    threads = torch.get_num_threads()
    ops.relative_attention(*inputs((3, 4)), impl="blocked")
    assert torch.get_num_threads() == threads
