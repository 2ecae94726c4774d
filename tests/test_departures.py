"""docs/migrating.md quotes the numbers that benchmarks/departures.py measures."""

import pytest
from benchmarks import departures
from docs.blocks import ROOT

PAGE = (ROOT / "docs" / "migrating.md").read_text()


@pytest.fixture(scope="module")
def found():
    return dict(departures.effects())


def row(name):
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {name} |"))
    return line


def rows(name):
    return [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]


def test_the_start_of_spectral_norm(found):
    def largest(channels, forwards):
        return f"{found[f'spectral norm of 2019, largest singular value in forward {forwards}, C {channels}']:.2f}"

    wide, narrow = ([largest(channels, n) for n in (1, 5, 20, 100)] for channels in (256, 64))
    here = [f"{found[f'spectral norm here, largest singular value in forward 1, C {c}']:.2f}" for c in (256, 64)]
    line = row("spectral norm, start")
    assert "{}, {}, {} and {} in forward".format(*wide) in line
    assert "{}, {}, {}, {} at 64".format(*narrow) in line
    assert "{} and {} from the start".format(*here) in line


def test_the_order_of_its_vectors(found):
    what = "spectral norm, divisor here over that of 2019 from the same state, C {}"
    apart = [f"{100 * (1 - found[what.format(channels)]):.2f} %" for channels in (256, 64)]
    assert "{} at 256 channels, {} at 64".format(*apart) in row("spectral norm, each step")


def test_the_decay_of_gamma(found):
    one_cycle, flat = rows("gamma")
    lost = {what.partition(" in ")[2]: value for what, value in found.items() if "gamma in" in what}
    short, long = (lost[f"{n} epochs of Imagewoof at 3e-3, one-cycle"] for n in (5, 400))
    assert f"{100 * short:.1f} % in 5 epochs of Imagewoof, {100 * long:.0f} % in 400" in one_cycle
    short, long = (lost[f"{n} epochs of Imagewoof at 8e-3, flat-cosine"] for n in (5, 20))
    assert f"{100 * short:.1f} % in 5 epochs of Imagewoof, {100 * long:.0f} % in 20" in flat


def test_what_attention_channels_change_by(found):
    def changed(what):
        return f"{100 * found[what]:.0f} %"

    heads = "heads in their right order, change of the attention channels, {} values a head"
    assert found[heads.format(1)] == 0
    line = row("heads of more than one value channel")
    assert f"{changed(heads.format(2))} with 2 values a head, {changed(heads.format(10))} with 10" in line
    tables = changed("position tables drawn anew, change of the attention channels")
    assert f"differ by {tables}" in row("position tables of the 1x1 class")
    sides = [changed(f"blurred pool, change of its output, {n} x {n} cells") for n in (56, 14)]
    assert "by {} at 56x56 cells, {} at 14x14".format(*sides) in row("blurred pools")


def test_overflow_in_half_precision(found):
    def first(side, kind):
        return found[f"{kind} in float16, C 256, {side} x {side} cells: least standard deviation that overflows"]

    products = {side: {first(side, kind) for kind in ("(x x^T)(W x)", "x (x^T (W x))")} for side in (32, 64)}
    ((small,), (large,)) = products.values()
    said = f"from inputs of standard deviation {small:g} at 32x32 cells"
    assert f"{said} and {large:g} at 64x64" in row("half precision")
    assert f"overflows {said}, {large:g} at 64x64" in PAGE
    assert {first(side, "here, gamma 0.01,") for side in (32, 64)} == {float("inf")}
