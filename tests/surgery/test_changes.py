"""The list of changes and its table."""

import dataclasses

import pytest

from attnconv.surgery import Change, Changes

FIRST = Change("layer1.conv", "Conv2d(3, 64, 3x3)", "AugmentedConv2d(d_k 160, d_v 8, 8 heads)", (7, 9), 1792, 23000)
SECOND = Change("up", "Conv1d(3, 4, 1)", "AugmentedConv1d(d_k 4, d_v 2, 2 heads)", (5,), 16, 120)


def test_it_is_a_list():
    changes = Changes([FIRST, SECOND])
    assert len(changes) == 2
    assert changes[1] is SECOND
    assert [change.name for change in changes] == ["layer1.conv", "up"]


def test_entries_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FIRST.name = "other"


def test_the_table():
    assert str(Changes([FIRST, SECOND])).splitlines() == [
        "name         before              after                                     map           params",
        "layer1.conv  Conv2d(3, 64, 3x3)  AugmentedConv2d(d_k 160, d_v 8, 8 heads)  7x9  1,792 -> 23,000",
        "up           Conv1d(3, 4, 1)     AugmentedConv1d(d_k 4, d_v 2, 2 heads)      5        16 -> 120",
        "2 changes                                                                               +21,312",
    ]


def test_the_table_of_one_and_of_none():
    assert str(Changes([SECOND])).splitlines()[-1].split() == ["1", "change", "+104"]
    assert str(Changes()).splitlines()[-1].split() == ["0", "changes", "+0"]
