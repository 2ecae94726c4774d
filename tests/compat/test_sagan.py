"""Layers of heykeetae's SAGAN and of BigGAN-PyTorch against modules of their formulas and names, written here."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnconv import checks, compat


class SelfAttn(nn.Module):
    """As the paper's text: softmax over the positions of key_conv for each position of query_conv."""

    def __init__(self, channels, keys=None):
        super().__init__()
        keys = keys or channels // 8
        self.query_conv, self.key_conv = nn.Conv2d(channels, keys, 1), nn.Conv2d(channels, keys, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        queries, keys, values = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        shares = torch.softmax(torch.einsum("bdj,bdi->bji", queries, keys), dim=2)
        return self.gamma * torch.einsum("bji,bci->bcj", shares, values).reshape(x.shape) + x


class Divided(nn.Module):
    """A 1x1 convolution whose divisor is that of a power iteration, kept only in training."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.register_buffer("u0", torch.randn(1, outputs))
        self.register_buffer("sv0", torch.ones(1))

    def forward(self, x):
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ matrix)
            u = F.normalize(v @ matrix.T)
        divisor = (v @ matrix.T @ u.T).squeeze()
        if self.training:
            self.u0.copy_(u)
            self.sv0.fill_(divisor.detach())
        return F.conv2d(x, self.weight / divisor)


class PlainConv(nn.Conv2d):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 1, bias=False)


class Attention(nn.Module):
    """As the paper's code."""

    def __init__(self, channels, conv=Divided):
        super().__init__()
        self.theta, self.phi = conv(channels, channels // 8), conv(channels, channels // 8)
        self.g, self.o = conv(channels, channels // 2), conv(channels // 2, channels)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        theta = self.theta(x).flatten(2)
        phi, g = (F.max_pool2d(conv(x), 2).flatten(2) for conv in (self.phi, self.g))
        beta = torch.softmax(torch.einsum("bdj,bdi->bji", theta, phi), dim=2)
        mixed = torch.einsum("bji,bei->bej", beta, g)
        return self.gamma * self.o(mixed.reshape(*mixed.shape[:2], *x.shape[2:])) + x


KINDS = {
    "heykeetae": SelfAttn,
    "biggan": Attention,
    "biggan without norm": lambda channels: Attention(channels, PlainConv),
}


def trained(kind, channels=16):
    """A layer whose u has gone some steps, and is not where the power iteration ends."""
    torch.manual_seed(0)
    layer = KINDS[kind](channels).double()
    for _ in range(2):
        layer(torch.randn(2, channels, 4, 6, dtype=torch.float64))
    nn.init.constant_(layer.gamma, 0.7)
    return layer.eval()


def image(channels=16, rows=6, columns=4):
    return torch.randn(2, channels, rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [8, 16, 49, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_the_program(kind, channels):
    theirs, x = trained(kind, channels), image(channels)
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    torch.manual_seed(3)
    expected_draw = torch.rand(1)
    torch.manual_seed(3)
    layer = compat.load_self_attention(theirs.state_dict())
    assert torch.equal(torch.rand(1), expected_draw)  # nobody's random numbers are used up
    assert not layer.training
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        for parameter in layer.train().parameters():
            parameter.add_(1)
    torch.testing.assert_close(theirs.state_dict(), before, rtol=0, atol=0)  # the layer has its own tensors


@pytest.mark.parametrize(("channels", "keys"), [(22, 15), (5, 5), (7, 1)])
def test_other_widths_are_read_off_the_weights(channels, keys):
    """In binary 22 * (15 / 22) is less than 15."""
    theirs, x = SelfAttn(channels, keys).double(), image(channels)
    nn.init.ones_(theirs.gamma)
    torch.testing.assert_close(compat.load_self_attention(theirs.state_dict())(x), theirs(x))


def test_the_divisor_is_not_the_largest_singular_value():
    """Else the numbers above would say nothing about u."""
    theirs = trained("biggan")
    layer = compat.load_self_attention(theirs.state_dict())
    assert torch.linalg.matrix_norm(layer.value.weight[..., 0], 2) > 1.001


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_on(kind):
    layer = compat.load_self_attention(trained(kind).float().state_dict()).train()
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in layer.parameters())
    layer(image().float()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert {tensor.dtype for tensor in layer.state_dict().values()} == {torch.float32}


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn1, self.attn2 = trained("heykeetae"), trained("heykeetae", 8)
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, 3, 1), trained("biggan")])])
        self.last = nn.Conv2d(8, 3, 1)


@pytest.mark.parametrize("wrapped", [lambda g: g, nn.DataParallel, nn.Sequential])
@pytest.mark.parametrize("form", ["mapping", "file", "model in a file"])
def test_a_layer_of_a_whole_network(wrapped, form, tmp_path):
    generator = Generator()
    state = wrapped(generator).state_dict()
    source = state
    if form != "mapping":
        source = tmp_path / "G.pth"
        torch.save({"model": state, "epoch": 3} if form == "model in a file" else state, source)
    for name in ("attn1", "attn2", "blocks.0.1"):
        theirs = generator.get_submodule(name)
        x = image(8 if name == "attn2" else 16)
        for prefix in (name, f"{name}.", f"module.{name}"):
            torch.testing.assert_close(compat.load_self_attention(source, prefix)(x), theirs(x))


def state(kind, **changes):
    found = dict(trained(kind).state_dict())
    for name, value in changes.items():
        name = name.replace("__", ".")
        found[name] = value
        if value is None:
            del found[name]
    return found


@pytest.mark.parametrize(
    ("source", "prefix", "message"),
    [
        (
            {"fc.weight": torch.zeros(2, 2)},
            "",
            r"no layer of SAGAN; expected query_conv, .* nearest: 'fc\.weight'",
        ),
        (Generator().state_dict(), "", r"no layer of SAGAN at prefix=''; known: attn1, attn2, blocks\.0\.1"),
        (Generator().state_dict(), "atn2", "no layer of SAGAN at prefix='atn2'; nearest: 'attn2'"),
        (
            state("heykeetae", key_conv__bias=None),
            "",
            r"missing key 'key_conv\.bias'; expected gamma, key_conv\.weight",
        ),
        (state("heykeetae", gamma=None), "", "missing key 'gamma'"),
        (state("biggan", o__weight=None), "", r"missing key 'o\.weight'"),
        (state("biggan", phi__u0=None), "", r"missing key 'phi\.u0'"),
        (state("biggan", more=torch.zeros(1)), "", "unexpected key 'more'"),
        (
            state("biggan", g__weight=torch.zeros(8, 9, 1, 1)),
            "",
            r"'g\.weight' is \(8, 9, 1, 1\) in it and \(8, 16, 1, 1\)",
        ),
        (state("biggan", theta__weight=torch.zeros(())), "", r"theta\.weight must have 4 axes, got \(\)"),
        (state("biggan", g__weight=torch.zeros(())), "", r"g\.weight must have 4 axes, got \(\)"),
        (
            state("heykeetae", query_conv__weight=torch.zeros(2, 16, 3, 3)),
            "",
            r"is \(2, 16, 3, 3\) in it and \(2, 16, 1, 1\)",
        ),
        (state("heykeetae", query_conv__weight=torch.zeros(2, 10**6, 1, 1)), "", "is .* in it and"),
        (state("heykeetae", query_conv__weight=torch.zeros(2, 0, 1, 1)), "", "channels must be at least 1, got 0"),
        (
            state("heykeetae", query_conv__weight=torch.zeros(0, 16, 1, 1)),
            "",
            r"in it and \(1, 16, 1, 1\) in",
        ),
        (state("heykeetae", gamma=torch.tensor([float("nan")])), "", "'gamma' holds a number that is not finite"),
        (state("heykeetae", gamma=torch.tensor([1])), "", r"'gamma' is of torch\.int64, and weights are of one of"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(source, prefix, message):
    with pytest.raises(checks.InputError, match=message):
        compat.load_self_attention(source, prefix)


def test_a_missing_file_gets_a_sentence(tmp_path):
    with pytest.raises(checks.InputError, match=r"no file .*G\.pth to take weights from"):
        compat.load_self_attention(tmp_path / "G.pth")
