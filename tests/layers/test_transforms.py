"""Each layer under torch.compile, torch.export, torch.func and DistributedDataParallel."""

import copy

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn
from torch.export import Dim
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

from attnconv import AugmentedConv1d, AugmentedConv2d, AugmentedConv3d, SelfAttention, SimpleSelfAttention, compat

WIDTHS = {"key_channels": 6, "value_channels": 4, "num_heads": 2, "padding": 1, "feat_size": 9}
LAYERS = {
    "1d": (lambda: AugmentedConv1d(6, 10, 3, **WIDTHS), (7,)),
    "2d": (lambda: AugmentedConv2d(6, 10, 3, **WIDTHS), (7, 6)),
    "3d": (lambda: AugmentedConv3d(6, 10, 3, **WIDTHS), (3, 5, 4)),
    "sine": (lambda: AugmentedConv2d(6, 10, 3, **WIDTHS, position="sine"), (7, 6)),
    "coordconv": (lambda: AugmentedConv2d(6, 10, 3, **WIDTHS, position="coordconv"), (7, 6)),
    "pooled": (lambda: AugmentedConv2d(6, 10, 3, **WIDTHS, attention_pool=2), (7, 6)),
    "strided": (lambda: AugmentedConv2d(6, 10, 3, **WIDTHS, stride=2), (7, 6)),
    "large": (lambda: AugmentedConv2d(6, 10, 3, **{**WIDTHS, "feat_size": 10}), (9, 10)),  # "auto" is "blocked" here
    "one convolution": (lambda: AugmentedConv2d(6, 10, 3, **WIDTHS, qkv_kernel_size=3), (7, 6)),
    "sagan": (lambda: SelfAttention(6), (7, 6)),
    "sagan whole": (lambda: SelfAttention(6, value_ratio=1 / 2, pool=2, bias=True), (7, 6)),
    "simple": (lambda: SimpleSelfAttention(6), (7, 6)),
    "symmetric": (lambda: SimpleSelfAttention(6, symmetric=True, normalize=True), (7, 6)),
    "legacy": (lambda: compat.AugmentedConv(6, 10, 3, 6, 4, 2, 9, True, head_layout="legacy"), (7, 6)),
    "wide": (lambda: compat.SimpleSelfAttention(6, 3), (7, 6)),
}
NORMED = ["sagan", "sagan whole", "simple", "symmetric", "wide"]
# One of each kind; the others differ from these in no step that a compiler or exporter would notice.
KINDS = ["2d", "pooled", "large", "sagan", "sagan whole", "symmetric"]
SLOW = pytest.mark.slow
KINDS_FIRST = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in LAYERS]


def make(name, batch=2):
    torch.manual_seed(0)
    build, map_size = LAYERS[name]
    layer = build()
    if hasattr(layer, "gamma"):
        nn.init.constant_(layer.gamma, 0.7)
    return layer, torch.randn(batch, 6, *map_size)


@pytest.fixture(autouse=True)
def forget_compiled_code():
    """torch.compile gives up on a function after eight variants, and all layers here share theirs."""
    torch.compiler.reset()


@pytest.mark.parametrize(
    "name",
    [name if name in ("2d", "large", "symmetric") else pytest.param(name, marks=SLOW) for name in LAYERS],
)
def test_compile_in_one_graph_forward_and_backward(name):
    layer, x = make(name)
    plain = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for side in (compiled, plain):
        side(x).square().mean().backward()
    torch.testing.assert_close(compiled(x), plain(x), rtol=1e-4, atol=1e-5)
    for one, other in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["2d", *(pytest.param(name, marks=SLOW) for name in LAYERS if name != "2d")])
def test_compile_under_autocast(name):
    layer, x = make(name)
    layer.eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = compiled(x), layer(x)
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_compile_to_machine_code(name):
    layer, x = make(name)
    layer.eval()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_meta_device(name):
    layer, x = make(name)
    assert layer.to("meta")(x.to("meta")).shape == make(name)[0](x).shape


@pytest.mark.parametrize("name", KINDS_FIRST)
@pytest.mark.parametrize("mode", [pytest.param("train", marks=SLOW), "eval"])
def test_export(name, mode):
    layer, x = make(name)
    getattr(layer, mode)()
    program = torch.export.export(copy.deepcopy(layer), (x,))
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-4, atol=1e-5)


# torch 2.11 ties the size of a pooled map to odd or even.
POOLED = pytest.param("pooled", marks=pytest.mark.skipif(torch.__version__ < "2.12", reason="torch 2.11 cannot"))


@pytest.mark.parametrize(
    "name",
    [
        "2d",
        POOLED,
        "symmetric",
        *(pytest.param(name, marks=SLOW) for name in ("sine", "coordconv", "sagan", "sagan whole", "simple")),
    ],
)
def test_export_with_a_dynamic_batch_and_map(name):
    layer, x = make(name)
    layer.eval()
    low = 4 if name == "sagan whole" else 3  # torch leaves sizes out at which a pooled axis is 1
    sizes = {0: Dim("batch", max=64), 2: Dim("rows", min=low, max=9), 3: Dim("columns", min=low, max=9)}
    program = torch.export.export(layer, (x,), dynamic_shapes=(sizes,)).module()
    for shape in ((3, 6, 5, 9), (1, 6, 8, 4)):
        other = torch.randn(shape)
        torch.testing.assert_close(program(other), layer(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_per_sample_gradients(name):
    layer, x = make(name, batch=3)
    layer.eval()
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())

    def loss(parameters, sample):
        return functional_call(layer, (parameters, buffers), (sample[None],)).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    alone = grad(loss)(parameters, x[1])
    for key in parameters:
        torch.testing.assert_close(together[key][1], alone[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_forward_mode(name):
    layer, x = make(name)
    layer.eval().double()
    x, step = x.double(), torch.randn_like(x, dtype=torch.float64)
    _, slope = jvp(layer, (x,), (step,))
    torch.testing.assert_close(slope, (layer(x + 1e-6 * step) - layer(x - 1e-6 * step)) / 2e-6, rtol=1e-5, atol=1e-5)


def ensemble(name, mode):
    layers = [getattr(make(name)[0], mode)() for _ in range(3)]
    for i, layer in enumerate(layers):
        nn.init.normal_(next(layer.parameters()), mean=i)
    state = stack_module_state(layers)

    def call(parameters, buffers, x):
        return functional_call(layers[0], (parameters, buffers), (x,))

    return layers, lambda x: vmap(call, in_dims=(0, 0, None))(*state, x)


@pytest.mark.parametrize("name", LAYERS)
def test_vmap_over_stacked_weights(name):
    layers, together = ensemble(name, "eval")
    _, x = make(name)
    torch.testing.assert_close(together(x)[1], layers[1](x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NORMED)
def test_vmap_over_stacked_weights_in_training_refuses_in_a_sentence(name):
    _, together = ensemble(name, "train")
    with pytest.raises(RuntimeError, match=r"cannot step their spectral norm: call eval\(\) on the layers first"):
        together(make(name)[1])


DISTRIBUTED = ["2d", "sagan", "symmetric"]


def train(model, x):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def train_on_one_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    states = {}
    for name in DISTRIBUTED:
        layer, x = make(name, batch=4)
        train(nn.parallel.DistributedDataParallel(layer), x[2 * rank : 2 * rank + 2])
        states[name] = layer.state_dict()
    torch.save(states, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def states_of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(train_on_one_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTRIBUTED)
def test_two_processes_train_as_one(name, states_of_two_processes):
    layer, x = make(name, batch=4)
    train(layer, x)
    first, second = (states[name] for states in states_of_two_processes)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, layer.state_dict(), rtol=1e-4, atol=1e-5)
