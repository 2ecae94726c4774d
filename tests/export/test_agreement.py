"""Answers that are taken for the same: a network against a changed copy of itself, case by case."""

import math

import pytest
import torch
from export.untrained import meta, network
from torch import nn

from attnconv import export
from attnconv.export.capture import TOLERANCE, DisagreementError, require_agreement
from attnconv.models.image_sizes import Sizes

FIXED, FREE = Sizes((5, 5), (7, 7)), Sizes((4, None), (3, 9))


class Net(nn.Module):
    """One logit of one image is ``value``; the image is the last of a batch of ``batch``."""

    def __init__(self, value=None, batch=5):
        super().__init__()
        self.value, self.batch = value, batch

    def forward(self, x):
        means = x.mean((2, 3))  # (B, 2)
        logits = torch.cat([means, means[:, :1] * 3 + 1], dim=1)  # (B, 3)
        if self.value is not None and len(x) == self.batch:
            logits[-1, 1] = self.value
        return logits


def agree(model, call, sizes=FIXED):
    return require_agreement(model, call, sizes=sizes, meta=meta((5, 7)), what="the file")


def test_a_network_agrees_with_itself_in_every_case():
    found = [(one.batch, one.rows, one.columns, one.largest) for one in agree(Net(), Net(), FREE)]
    assert found == [(1, 5, 7, 0), (2, 5, 7, 0), (5, 5, 7, 0), (2, 4, 9, 0), (3, 6, 3, 0)]


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_in_the_file(value, batch):
    message = rf"^the file cannot be compared .*: outputs of the file are not finite for {batch} images of 5 x 7$"
    with pytest.raises(DisagreementError, match=message):
        agree(Net(), Net(value, batch))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("other", [None, math.nan, math.inf])
def test_numbers_that_are_not_finite_in_the_network(value, other):
    """Were they compared, an infinite output would let any difference pass: inf <= 0.001 * inf."""
    message = r"^the file cannot be compared .*: outputs of PyTorch are not finite for 5 images of 5 x 7$"
    with pytest.raises(DisagreementError, match=message):
        agree(Net(value), Net(other))


@pytest.mark.parametrize(("share", "passes"), [(0.9, True), (1.1, False)])
def test_the_tolerance_is_of_the_largest_output(share, passes):
    model = Net()

    def call(x):
        logits = model(x)
        logits[0, 0] += share * TOLERANCE * logits.abs().max()
        return logits

    if passes:
        assert len(agree(model, call)) == 3
    else:
        with pytest.raises(DisagreementError, match=r"^the file differs from PyTorch by "):
            agree(model, call)


def test_another_shape():
    with pytest.raises(DisagreementError, match=r"^the file gives \(1, 2\) for 1 images of 5 x 7, PyTorch \(1, 3\)$"):
        agree(Net(), lambda x: Net()(x)[:, :2])


def test_a_file_that_fails():
    def call(x):
        raise ValueError("no such size")

    with pytest.raises(DisagreementError, match=r"^the file fails on 1 images of 5 x 7: .*no such size$"):
        agree(Net(), call)


def test_a_network_that_has_diverged_is_not_exported(tmp_path):
    model = network("convnet3", 8)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(DisagreementError, match="outputs of PyTorch are not finite"):
        export.export_program(model, tmp_path / "m.pt2", meta=meta(8))
    assert list(tmp_path.iterdir()) == []
