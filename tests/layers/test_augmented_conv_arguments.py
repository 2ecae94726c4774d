"""Whatever the arguments, the constructor gives a valid layer or a clear ValueError."""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from attnconv import AugmentedConv2d

small = st.integers(-1, 4)
pair = st.one_of(small, st.tuples(small, small))
ARGUMENTS = st.fixed_dictionaries(
    {
        "in_channels": st.integers(0, 6),
        "out_channels": st.integers(0, 12),
        "kernel_size": pair,
        "stride": pair,
        "padding": st.one_of(pair, st.sampled_from(["same", "valid", "full"])),
        "dilation": pair,
        "groups": small,
        "bias": st.booleans(),
        "padding_mode": st.sampled_from(["zeros", "reflect", "replicate", "circular", "mirror"]),
        "key_channels": st.integers(-1, 8),
        "value_channels": st.integers(-1, 8),
        "num_heads": st.integers(-1, 3),
        "feat_size": st.one_of(st.none(), st.integers(0, 12), st.tuples(st.integers(1, 12), st.integers(1, 12))),
        "position": st.sampled_from(["relative", "sine", "coordconv", None, "absolute"]),
        "qkv_kernel_size": st.sampled_from([1, 2, 3, (1, 3)]),
        "attention_pool": st.sampled_from([1, 2, 3]),
    }
)
# Most draws from the above are refused by some check; this one mostly gives layers.
VALID_ARGUMENTS = st.fixed_dictionaries(
    {
        "in_channels": st.sampled_from([4, 6]),
        "out_channels": st.sampled_from([8, 10]),
        "kernel_size": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "stride": st.integers(1, 3),
        "padding": st.one_of(st.integers(0, 3), st.tuples(st.integers(0, 3), st.integers(0, 3)), st.just("valid")),
        "dilation": st.integers(1, 2),
        "groups": st.integers(1, 2),
        "padding_mode": st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
        "key_channels": st.sampled_from([2, 6]),
        "value_channels": st.sampled_from([2, 4, 8]),
        "num_heads": st.integers(1, 2),
        "feat_size": st.just(16),
        "position": st.sampled_from(["relative", "sine", "coordconv", None]),
        "qkv_kernel_size": st.sampled_from([1, 2, 3, (1, 3)]),
        "attention_pool": st.integers(1, 2),
    }
)
SIZE = (7, 6)


def forward_agrees_with_conv2d(arguments, layer):
    """The output has nn.Conv2d's shape, or, where nn.Conv2d refuses the input, the layer refuses it too."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode")
    plain = nn.Conv2d(**{name: arguments[name] for name in names}, device="meta")
    x = torch.randn(2, arguments["in_channels"], *SIZE)
    try:
        shape = plain(x.to("meta")).shape
        expected = shape if min(shape) > 0 else None  # torch 2.11 gives an empty map where later ones refuse
    except (RuntimeError, ValueError):
        expected = None
    try:
        y = layer(x)
    except ValueError:
        too_large = expected and layer.position == "relative" and any(
            n > r for n, r in zip(expected[2:], layer.feat_size, strict=True)
        )  # fmt: skip
        assert expected is None or too_large
    except RuntimeError:
        assert expected is None
    else:
        assert y.shape == expected
        assert y.isfinite().all()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(ARGUMENTS)
def test_any_arguments_give_a_layer_or_a_value_error(arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            layer, problem = AugmentedConv2d(**arguments), ""
        except ValueError as error:
            layer, problem = None, str(error)
        if layer is not None:
            forward_agrees_with_conv2d(arguments, layer)
    assert layer is not None or len(problem) > 15
    assert "\n" not in problem


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(VALID_ARGUMENTS)
def test_valid_arguments_give_the_shape_of_a_convolution(arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forward_agrees_with_conv2d(arguments, AugmentedConv2d(**arguments))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_tool_that_asks_for_the_weight_gets_a_sentence(name):
    layer = AugmentedConv2d(4, 6, 3, key_channels=4, value_channels=4, num_heads=2, position=None)
    assert not hasattr(layer, name)
    with pytest.raises(AttributeError, match=f"AugmentedConv2d is not a single convolution and has no {name}; "):
        getattr(layer, name)
    with pytest.raises(AttributeError, match="has no attribute 'weigth'"):
        layer.weigth  # noqa: B018
