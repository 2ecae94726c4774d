"""torch.jit.trace and the older exporter to ONNX: what they write knows nothing of this library, and takes any size."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from layers.test_transforms import KINDS_FIRST, LAYERS, make
from torch import nn

from attnconv import AugmentedConv2d, ops
from attnconv.models import create_model

pytestmark = pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
# The kinds of node that a file without this library's operators holds.
KNOWN = ("aten::", "prim::Constant", "prim::ListConstruct", "prim::ListUnpack", "prim::GetAttr", "prim::NumToTensor")


def others(x):
    """Inputs of another batch and of another map."""
    return x[:1], x[..., :-1], torch.cat([x, x], dim=2)[:, :, : x.shape[2] + 1]


@pytest.mark.parametrize("name", LAYERS)
def test_a_traced_layer_is_of_torch_alone_and_takes_any_size(name):
    layer, x = make(name)
    layer.eval()
    traced = torch.jit.trace(layer, x)
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert {kind for kind in kinds if not kind.startswith(KNOWN)} == set()
    for other in (x, *others(x)):
        torch.testing.assert_close(traced(other), layer(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("name", ["2d", "sagan", "simple"])
def test_the_check_of_the_trace_passes(name, requires_grad):
    """On 8x8 the kernel is chosen by whether gradients are needed, which differs between a trace and its check."""
    layer, _ = make(name)
    layer.eval().requires_grad_(requires_grad)
    torch.jit.trace(layer, torch.randn(2, 6, 8, 8), check_trace=True)


@pytest.mark.parametrize("tables", [True, False])
def test_traced_small_with_wide_values_it_takes_a_large_map(tables):
    """The folded head of a large map is wider than E, that of the traced map is not."""
    rel = [torch.randn(2 * 70 - 1, 4), torch.randn(2 * 70 - 1, 4)] if tables else None

    class Op(nn.Module):
        def forward(self, q, k, v):
            return ops.relative_attention(q, k, v, rel, impl="sdpa")

    def inputs(rows, columns):
        return (
            torch.randn(1, 2, rows, columns, 4),
            torch.randn(1, 2, rows, columns, 4),
            torch.randn(1, 2, rows, columns, 20),
        )

    traced = torch.jit.trace(Op(), inputs(3, 2))
    large = inputs(11, 13)
    torch.testing.assert_close(traced(*large), Op()(*large), rtol=1e-4, atol=1e-5)


def test_beyond_the_largest_map_of_eager_torchs_own_attention_is_traced():
    layer = AugmentedConv2d(2, 4, 1, key_channels=2, value_channels=2, num_heads=1, feat_size=66)
    for size, calls in ((8, 0), (66, 1)):
        graph = torch.jit.trace(layer, torch.randn(1, 2, size, size), check_trace=False).inlined_graph
        assert len(graph.findAllNodes("aten::scaled_dot_product_attention")) == calls


@pytest.mark.parametrize("impl", ["native", "blocked"])
def test_a_named_operator_of_our_own_is_refused(impl):
    q = torch.randn(1, 1, 3, 5, 4)
    with pytest.raises(ValueError, match=f"impl='{impl}' cannot be traced or exported; impl='sdpa' and"):
        torch.jit.trace(lambda q: ops.relative_attention(q, q, q, None, impl=impl), q)


LOAD = """
import sys, torch
model, x, y = torch.jit.load(sys.argv[1]), *torch.load(sys.argv[2])
torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-5)
assert not [name for name in sys.modules if name.startswith("attnconv")]
"""


@pytest.mark.parametrize("name", ["aa_convnet3", pytest.param("ssa_xresnet18", marks=pytest.mark.slow)])
def test_a_saved_network_runs_in_a_process_without_this_library(name, tmp_path):
    torch.manual_seed(0)
    model, x = create_model(name, num_classes=3, image_size=32).eval(), torch.randn(2, 3, 32, 24)
    torch.jit.save(torch.jit.trace(model, torch.randn(1, 3, 32, 32)), tmp_path / "model.pt")
    torch.save((x, model(x).detach()), tmp_path / "numbers.pt")
    subprocess.run([sys.executable, "-c", LOAD, tmp_path / "model.pt", tmp_path / "numbers.pt"], check=True)


def onnx_session(model, x, axes):
    ort = pytest.importorskip("onnxruntime")
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": axes})
    return ort.InferenceSession(file.getvalue())


@pytest.mark.parametrize("name", KINDS_FIRST)
def test_the_older_exporter_to_onnx(name):
    layer, x = make(name)
    layer.eval()
    session = onnx_session(layer, x, {axis: f"axis{axis}" for axis in range(x.dim()) if axis != 1})
    for other in (x, *others(x)):
        np.testing.assert_allclose(
            session.run(None, {"x": other.numpy()})[0], layer(other).detach().numpy(), rtol=1e-3, atol=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aa_resnet18", "sa_xresnet18", "ssa_xresnet18", "unet", "aa_unet"])
def test_networks_through_the_older_exporter(name):
    torch.manual_seed(0)
    model, x = create_model(name, num_classes=3, image_size=64).eval(), torch.randn(3, 3, 64, 48)
    session = onnx_session(model, torch.randn(1, 3, 64, 64), {0: "batch", 2: "rows", 3: "columns"})
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], model(x).detach().numpy(), rtol=1e-3, atol=1e-3)
